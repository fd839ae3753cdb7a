"""Which layers this machine offers: each is tried in a child once, since half an entry cannot be undone.

What cannot be had is left out and reported. ``missing`` tells what the operator's declared minimum still lacks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Sequence

from app.sandbox import isolation, nest, root, seccomp, syscalls

# Every layer there is, in the order in which they are told.
LAYERS = (
    *isolation.NAMESPACES,
    "ipc_namespace",
    "minimal_root",
    "scratch_tmpfs",
    "own_uid",
    "single_use_process",
    "parent_death",
    "descendants_killed",
    "rlimits",
    "no_capabilities",
    "no_new_privs",
    "undumpable",
    "landlock",
    "seccomp",
)
SEPARATED = tuple(name for name in LAYERS if name.endswith("_namespace") or name in ("minimal_root", "scratch_tmpfs"))
DEFAULT_MINIMUM = "seccomp,landlock/mount_namespace"
# A trial that is killed, or finds no memory, says nothing about the machine: a refusal counts when it is repeated.
_TRIES = 3
_ALWAYS = (
    *("single_use_process", "parent_death", "descendants_killed", "rlimits"),
    *("no_capabilities", "no_new_privs", "undumpable"),
)


def layers(without: Collection[str] = (), *, cuda: bool = False) -> tuple[str, ...]:
    """The names of the layers that this machine offers, without those that are not wanted.

    Must run in a process of one thread.
    """
    names = _namespaces(without)
    found = {*names, *(name for name in _ALWAYS if name not in without)}
    if "user_namespace" in found or os.geteuid() != 0:
        without = {*without, "own_uid"}
    for name, trial in _TRIALS.items():
        if name not in without and _rehearsed(names, trial, frozenset(found), cuda):
            found.add(name)
    if isolation.looked_into(found):
        found.discard("undumpable")
    return tuple(name for name in LAYERS if name in found)


def missing(minimum: str, found: Collection[str]) -> tuple[str, ...]:
    """The parts of ``minimum`` that ``found`` does not fulfil: ``a,b/c`` is a, and either b or c; ``none`` is nothing.

    Raises ``ValueError`` for a layer that does not exist.
    """
    lacking = []
    for part in filter(None, (part.strip() for part in minimum.split(","))):
        choices = [choice.strip() for choice in part.split("/")]
        for choice in choices:
            if choice not in LAYERS and part != "none":
                raise ValueError(f"there is no layer {choice!r}; there are: {', '.join(LAYERS)}")
        if part != "none" and not any(choice in found for choice in choices):
            lacking.append(" or ".join(choices))
    return tuple(lacking)


def _namespaces(without: Collection[str]) -> tuple[str, ...]:
    """As many as can be had. Root may do without a user namespace; anybody else needs one to be allowed the rest."""
    owners: tuple[tuple[str, ...], ...] = (("user_namespace",),)
    if os.geteuid() == 0:
        owners = ((), *owners)
    best: tuple[str, ...] = ()
    for owner in owners:
        names = owner
        for name in isolation.NAMESPACES:
            if name not in (*names, *without, "user_namespace") and _rehearsed((*names, name), _nothing):
                names = (*names, name)
        if len(names) - len(owner) > len(best):
            best = names
        if best or set(owner) & set(without):
            break
    return best


Trial = Callable[[frozenset[str], bool], None]


def _rehearsed(names: Sequence[str], trial: Trial, found: frozenset[str] = frozenset(), cuda: bool = False) -> bool:
    """Whether ``trial`` goes well in a first process of new namespaces of these names."""

    def attempt() -> None:
        if names:
            isolation.enter(names)
        if not _in_child(lambda: trial(found | set(names), cuda)):
            raise OSError("the trial failed")

    return any(_in_child(attempt) for _ in range(_TRIES))


def _in_child(attempt: Callable[[], None]) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            attempt()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _nothing(found: frozenset[str], cuda: bool) -> None:
    if "pid_namespace" in found:
        _in_nest(lambda: None)


def _in_nest(attempt: Callable[[], None]) -> None:
    """What a jail does, in a PID namespace in the zygote's."""
    home = nest.make(os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC))
    home.enter()
    done = _in_child(attempt)
    home.end()
    if not done:
        raise OSError("the trial failed")


def _try_ipc(found: frozenset[str], cuda: bool) -> None:
    syscalls.unshare(syscalls.CLONE_NEWIPC)


def _try_root(found: frozenset[str], cuda: bool) -> None:
    if not {"pid_namespace", "mount_namespace", "scratch_tmpfs"} <= found:
        raise OSError("needs both namespaces, and a scratch that is mounted: no other could be seen")
    shown = root.view(cuda=cuda)
    samples = _samples(shown)
    root.enter(shown)
    _read(samples)

    def in_jail() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        root.mount_own_proc(whole=cuda)
        os.stat("/proc/self/status")

    _in_nest(in_jail)


def _samples(shown: root.View) -> list[str]:
    """A file of the interpreter and one of each package: what cannot read them cannot run submissions."""
    files = [os.path.join(package, "__init__.py") for package in shown.packages]
    return [os.__file__, *(path for path in files if os.path.exists(path))]


def _read(paths: Sequence[str]) -> None:
    for path in paths:
        with open(path, "rb") as file:
            file.read(1)


def _try_scratch(found: frozenset[str], cuda: bool) -> None:
    if "mount_namespace" not in found:
        raise OSError("needs a mount namespace")
    syscalls.mount("scratch", root.SHARED_MEMORY, "tmpfs", syscalls.MS_NOSUID, "size=4096")
    os.mkdir(root.SCRATCH)


def _try_uid(found: frozenset[str], cuda: bool) -> None:
    if "scratch_tmpfs" not in found and not syscalls.has_capability(syscalls.CAP_SYS_PTRACE):
        raise OSError("another user's open files could not be counted against its scratch")
    shown = root.view(cuda=cuda)
    samples = _samples(shown)
    if "minimal_root" in found:
        root.enter(shown)
    isolation.become(isolation.uid_of(os.getpid(), 0))
    _read(samples)
    closed = [path for path in shown.devices if not root.is_optional(path) and not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        raise OSError(f"another user may not open {closed[0]}")


def _try_landlock(found: frozenset[str], cuda: bool) -> None:
    """With the jail's own rules: a kernel may know Landlock and not a file system that they name."""
    shown = root.view(cuda=cuda)
    samples = _samples(shown)
    if "minimal_root" in found:
        root.enter(shown)
    ruleset = isolation.rules(shown, found).ruleset(read=root.OWN_PROC_FILES)
    syscalls.set_no_new_privs()
    syscalls.landlock_restrict(ruleset)
    _read(samples)


def _try_seccomp(found: frozenset[str], cuda: bool) -> None:
    syscalls.set_no_new_privs()
    seccomp.Filter(cuda=cuda).install()


_TRIALS: dict[str, Trial] = {
    "ipc_namespace": _try_ipc,
    "scratch_tmpfs": _try_scratch,
    "minimal_root": _try_root,
    "own_uid": _try_uid,
    "landlock": _try_landlock,
    "seccomp": _try_seccomp,
}


def main() -> None:
    """Print the layers as one line, for a process that may have threads and so cannot try them itself."""
    sys.stdout.write(",".join(layers(cuda="cuda" in sys.argv[1:])) + "\n")


if __name__ == "__main__":
    main()
