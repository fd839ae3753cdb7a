"""What keeps a submission in: the layers that this machine offers, against what the operator demands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Jail:
    """``layers`` are in force; ``minimum`` is as the operator wrote it, ``lacking`` what of it is not met."""

    layers: tuple[str, ...] = ()
    minimum: str = "none"
    lacking: tuple[str, ...] = ()

    @property
    def refusal(self) -> str | None:
        """Why no submission may run here, None if they may."""
        if not self.lacking:
            return None
        absent = ", no ".join(self.lacking)
        return f"the jail of this machine is below the declared minimum ({self.minimum}): no {absent}"
