"""The layers of a jail, each one small function, and the order in which they are applied.

``NAMESPACES`` are tried once, by the zygote; what the machine refuses is left out and reported. ``CHILD_LAYERS`` are
applied by every child before any code of the submission is there. A layer that fails in a child breaks the jail; it is
never skipped in silence.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from app.sandbox import environment, limits, nest, syscalls

JOB_FD = 3
MOUNTED_SCRATCH = "/dev/shm/scratch"
_FIRST_FREE_FD = 64
_PAGE_BYTES = 4096  # a tmpfs of size 0 would have no bound

_NAMESPACES = {
    "user_namespace": syscalls.CLONE_NEWUSER,
    "pid_namespace": syscalls.CLONE_NEWPID,
    "mount_namespace": syscalls.CLONE_NEWNS,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Confinement:
    """What a child is to be confined with. ``layers`` are the namespaces that the zygote has.

    ``directory`` is an empty one of the supervisor's, used where the child cannot mount a scratch of its own.
    """

    directory: str
    scratch_bytes: int
    zygote_pid: int
    layers: tuple[str, ...]

    @property
    def own_pids(self) -> bool:
        return "pid_namespace" in self.layers

    @property
    def own_mounts(self) -> bool:
        return "mount_namespace" in self.layers

    @property
    def scratch(self) -> str:
        """Where the submission may write. In its own mount the name is the same for every call and every evaluator."""
        return MOUNTED_SCRATCH if self.own_mounts else self.directory


def enter_namespaces() -> tuple[str, ...]:
    """Give this process's future children a PID namespace, and itself a mount namespace; the names of those that work.

    Each choice, the best first, is rehearsed in a child, since half an entry cannot be undone. Must run before any
    thread.
    """
    for names in _choices():
        if _rehearsed(names):
            _enter(names)
            return names
    return ()


def _choices() -> tuple[tuple[str, ...], ...]:
    """Root may do without a user namespace; anybody else needs one to be allowed the rest."""
    both, pids = ("pid_namespace", "mount_namespace"), ("pid_namespace",)
    owned = (("user_namespace", *both), ("user_namespace", *pids))
    return (both, *owned, pids) if os.geteuid() == 0 else owned


def _enter(names: Sequence[str]) -> None:
    uid, gid = os.geteuid(), os.getegid()
    flags = 0
    for name in names:
        flags |= _NAMESPACES[name]
    syscalls.unshare(flags)
    if "user_namespace" in names:
        _map_identity(uid, gid)
    if "mount_namespace" in names:
        syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)


def _rehearsed(names: Sequence[str]) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            _enter(names)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(_rehearse_jail(names), 0)[1]))
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _rehearse_jail(names: Sequence[str]) -> int:
    """In a first process of the new namespaces, what a zygote and its jails will do there."""
    pid = os.fork()
    if pid == 0:
        try:
            home = nest.make(os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC))
            home.enter()
            home.end()
            if "mount_namespace" in names:
                syscalls.unshare(syscalls.CLONE_NEWNS)
                syscalls.mount("scratch", os.path.dirname(MOUNTED_SCRATCH), "tmpfs", syscalls.MS_NOSUID, "size=4096")
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def _map_identity(uid: int, gid: int) -> None:
    for name, content in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(content)


def settle_descriptors(job: int, out: int, err: int) -> None:
    """/dev/null on 0, the log pipes on 1 and 2, the job socket on 3, and nothing else.

    The three are moved out of the way first, since they may lie on each other's places.
    """
    null = os.open("/dev/null", os.O_RDONLY)
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD) for fd in (null, out, err, job)]
    for fd, place in zip(moved, (0, 1, 2, JOB_FD), strict=True):
        os.dup2(fd, place, inheritable=place != JOB_FD)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > JOB_FD:
            # One of them was the listing's own and is closed already.
            with suppress(OSError):
                os.close(int(name))


def own_session(_: Confinement) -> None:
    os.setsid()


def die_with_zygote(confinement: Confinement) -> None:
    """In a PID namespace the kernel ends this process with the zygote in any case; its parent shows as 0 there."""
    syscalls.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() not in (0, confinement.zygote_pid):
        os._exit(1)


def adopt_orphans(_: Confinement) -> None:
    """What this process detaches stays below it, where it is counted against its limits."""
    syscalls.set_child_subreaper()


def own_mounts(confinement: Confinement) -> None:
    if confinement.own_mounts:
        syscalls.unshare(syscalls.CLONE_NEWNS)


def private_scratch(confinement: Confinement) -> None:
    """A tmpfs in place of the machine's shared memory, which goes with the process; else the bare directory."""
    if confinement.own_mounts:
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        options = f"mode=0700,size={max(confinement.scratch_bytes, _PAGE_BYTES)}"
        syscalls.mount("scratch", os.path.dirname(MOUNTED_SCRATCH), "tmpfs", flags, options)
        os.mkdir(MOUNTED_SCRATCH, 0o700)
    os.chdir(confinement.scratch)
    environment.point_at(confinement.scratch)


def common_limits(_: Confinement) -> None:
    limits.limit_always()


def no_new_privileges(_: Confinement) -> None:
    syscalls.set_no_new_privs()


Layer = Callable[[Confinement], None]

# The order matters: what needs privileges comes first. A layer that takes privileges away (uid drop, capabilities,
# Landlock, seccomp last of all) belongs after ``no_new_privileges``.
CHILD_LAYERS: tuple[tuple[str, Layer], ...] = (
    ("session", own_session),
    ("parent_death", die_with_zygote),
    ("subreaper", adopt_orphans),
    ("mount_namespace", own_mounts),
    ("scratch", private_scratch),
    ("rlimits", common_limits),
    ("no_new_privs", no_new_privileges),
)


class LayerFailed(Exception):
    """A layer that this machine offered could not be applied."""


def confine(confinement: Confinement) -> None:
    """Apply every layer to this process. Raises ``LayerFailed`` naming the first that did not work."""
    for name, layer in CHILD_LAYERS:
        try:
            layer(confinement)
        except OSError as error:
            raise LayerFailed(f"{name}: {error}") from error


def in_force(namespaces: Sequence[str]) -> tuple[str, ...]:
    """The names of all layers of a jail whose zygote has these namespaces."""
    scratch = "scratch_tmpfs" if "mount_namespace" in namespaces else "scratch_polled"
    kill = () if "pid_namespace" in namespaces else ("descendants_killed",)
    return (*namespaces, "single_use_process", "parent_death", "rlimits", "no_new_privs", scratch, *kill)
