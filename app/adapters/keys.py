"""API keys in ``keys.json`` under the data folder: hashes, never secrets.

The command line writes it while the service runs; the service looks at the file's stamp on every call.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app.adapters.files import replace_whole
from app.domain.access import ApiKey
from app.domain.errors import NotFound, StoreUnavailable

FILE_NAME = "keys.json"

SECRET_NAME = "session.secret"

_KEYS = TypeAdapter(dict[str, ApiKey])


class KeyFile:
    """The port ``Keys``, and what the command line does with them."""

    def __init__(self, data: Path) -> None:
        self.path = data / FILE_NAME
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, ApiKey] = {}

    def find(self, key_id: str) -> ApiKey | None:
        return self.all().get(key_id)

    def required(self) -> bool:
        return bool(self.all())

    def all(self) -> dict[str, ApiKey]:
        """Every key by its id, also those that are not taken any more. Raises ``StoreUnavailable``."""
        try:
            stat = os.stat(self.path)
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp != self._stamp:
                self._keys = _KEYS.validate_json(self.path.read_bytes())
                self._stamp = stamp
        except (FileNotFoundError, NotADirectoryError) as error:
            # A link to nothing is where keys were to be, and so is a file that was there: nobody gets in unasked.
            if os.path.lexists(self.path):
                raise self._unreadable() from error
            return {} if self._stamp is None else self._keys
        except (OSError, ValidationError) as error:
            raise self._unreadable() from error
        return self._keys

    def _unreadable(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.path} cannot be read: restore it from a backup, or move it away and add keys anew"
        )

    def add(self, key: ApiKey) -> None:
        with self._alone():
            self._write({**self.all(), key.id: key})

    def revoke(self, key_id: str, now: float) -> ApiKey:
        """Raises ``NotFound``. Revoking twice keeps the first time."""
        with self._alone():
            keys = self.all()
            if key_id not in keys:
                raise NotFound(f"there is no key {key_id!r}")
            revoked = replace(keys[key_id], revoked_at=keys[key_id].revoked_at or now)
            self._write({**keys, key_id: revoked})
        return revoked

    def _write(self, keys: dict[str, ApiKey]) -> None:
        replace_whole(self.path, _KEYS.dump_json(keys, indent=1))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One command at a time reads, changes and writes."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"{self.path.parent} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def session_secret(data: Path) -> str:
    """What sessions are signed with: random, made once, kept under the data folder. Raises ``StoreUnavailable``."""
    path = data / SECRET_NAME
    for _ in range(2):
        try:
            if len(found := path.read_text()) >= 32:
                return found
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            raise StoreUnavailable(f"{path} cannot be read: move it away, and sessions begin anew") from error
        replace_whole(path, secrets.token_urlsafe(32).encode())
    raise StoreUnavailable(f"{path} does not keep what is written to it")


def check_session_secret(data: Path) -> None:
    """Raises ``StoreUnavailable`` for one that is there and of no use. It is not made before it is needed."""
    if (data / SECRET_NAME).exists():
        session_secret(data)
