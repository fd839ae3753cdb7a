"""The layers of a jail, each one small function, and the order in which they are applied.

The zygote enters the namespaces and the minimal root, once. Every child applies ``CHILD_LAYERS`` before any code of the
submission is there, each only if it is among the layers that ``offer`` found. A layer that was found and then fails in
a child breaks the jail; it is never skipped in silence.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from app.sandbox import environment, landlock, limits, processes, root, scratch, seccomp, syscalls
from app.sandbox.root import SCRATCH, SHARED_MEMORY, View

JOB_FD = 3
_FIRST_FREE_FD = 64
_PAGE_BYTES = 4096  # a tmpfs of size 0 would have no bound
_HOST_NAME = "jail"

NAMESPACES = {
    "user_namespace": syscalls.CLONE_NEWUSER,
    "pid_namespace": syscalls.CLONE_NEWPID,
    "mount_namespace": syscalls.CLONE_NEWNS,
    "network_namespace": syscalls.CLONE_NEWNET,
    "uts_namespace": syscalls.CLONE_NEWUTS,
}

# Uids that no distribution gives to anybody: 64 for each number that a process can have (the kernel's are below 2**22).
_FIRST_UID = 0x70000000
_UIDS_A_ZYGOTE = 64
_UIDS = 1 << 28


@dataclass(frozen=True, kw_only=True, slots=True)
class Confinement:
    """What a child is to be confined with. ``layers`` are those in force.

    ``directory`` is an empty one of the supervisor's, used where the child cannot mount a scratch of its own.
    ``ruleset_fd`` is Landlock's, made beforehand; without one the child makes its own from ``view``.
    """

    directory: str
    scratch_bytes: int
    zygote_pid: int
    layers: frozenset[str]
    uid: int
    view: View
    cuda: bool
    ruleset_fd: int | None
    filter: seccomp.Filter | None

    @property
    def scratch(self) -> str:
        """Where the submission may write. In its own mount the name is the same for every call and every evaluator."""
        return SCRATCH if "scratch_tmpfs" in self.layers else self.directory


def uid_of(zygote_pid: int, number: int) -> int:
    """A uid that no other jail has at the same time, by the zygote's number on the machine and the jail's own.

    A zygote has a handful of jails at a time, with numbers in a row.
    """
    return _FIRST_UID + (zygote_pid * _UIDS_A_ZYGOTE + number % _UIDS_A_ZYGOTE) % _UIDS


def enter(names: Sequence[str]) -> None:
    """Enter the namespaces that are named. Must run before any thread; children are born in the PID namespace."""
    uid, gid = os.geteuid(), os.getegid()
    flags = sum(NAMESPACES[name] for name in names if name in NAMESPACES)
    syscalls.unshare(flags)
    if "user_namespace" in names:
        _map_identity(uid, gid)
    if "mount_namespace" in names:
        syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    if "uts_namespace" in names:
        syscalls.set_host_name(_HOST_NAME)


def _map_identity(uid: int, gid: int) -> None:
    for name, content in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(content)


def settle_descriptors(job: int, out: int, err: int, kept: int | None) -> int | None:
    """/dev/null on 0, the log pipes on 1 and 2, the job socket on 3, and nothing else but ``kept``; its new number.

    The three are moved out of the way first, since they may lie on each other's places.
    """
    null = os.open("/dev/null", os.O_RDONLY)
    given = [null, out, err, job, *([] if kept is None else [kept])]
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD) for fd in given]
    places = (0, 1, 2, JOB_FD, JOB_FD + 1)[: len(moved)]
    for fd, place in zip(moved, places, strict=True):
        os.dup2(fd, place, inheritable=place < JOB_FD)
    processes.close_from(places[-1] + 1)
    return None if kept is None else places[-1]


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
    syscalls.unshare(syscalls.CLONE_NEWNS)
    if "minimal_root" in confinement.layers:
        root.mount_own_proc(whole=confinement.cuda)


def own_ipc(_: Confinement) -> None:
    """Shared memory, semaphores and message queues of System V and POSIX: its own, which go with it."""
    syscalls.unshare(syscalls.CLONE_NEWIPC)


def private_scratch(confinement: Confinement) -> None:
    """A tmpfs in place of the machine's shared memory, which goes with the process."""
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    size_bytes = max(confinement.scratch_bytes, _PAGE_BYTES)
    options = f"mode=0711,size={size_bytes},nr_inodes={scratch.MOST_FILES}"
    syscalls.mount("scratch", SHARED_MEMORY, "tmpfs", flags, options)
    os.mkdir(SCRATCH, 0o700)


def enter_scratch(confinement: Confinement) -> None:
    if "own_uid" in confinement.layers:
        owned = (SHARED_MEMORY, SCRATCH) if "scratch_tmpfs" in confinement.layers else (confinement.scratch,)
        for path in owned:
            os.chown(path, confinement.uid, confinement.uid)
    os.chdir(confinement.scratch)
    environment.point_at(confinement.scratch)


def common_limits(_: Confinement) -> None:
    limits.limit_always()


def own_uid(confinement: Confinement) -> None:
    become(confinement.uid)
    # A change of uid takes this back.
    die_with_zygote(confinement)


def become(uid: int) -> None:
    """Be this user, of no group, for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def no_bounding_set(_: Confinement) -> None:
    syscalls.drop_bounding_set()


def no_capabilities(_: Confinement) -> None:
    syscalls.drop_capabilities()


def no_new_privileges(_: Confinement) -> None:
    syscalls.set_no_new_privs()


def looked_into(layers: Collection[str]) -> bool:
    """Whether the supervisor, which may be of the same user, has to see a jail's descriptors.

    Where the scratch is a folder of the machine, deleted files that are still open show there alone. Landlock keeps
    other jails from looking; without it nobody may.
    """
    return "scratch_tmpfs" not in layers and "landlock" in layers


def dumpable(confinement: Confinement) -> None:
    """What the zygote or a change of uid has left does not count."""
    if "undumpable" in confinement.layers:
        syscalls.set_undumpable()
    else:
        syscalls.set_dumpable()


def restrict_files(confinement: Confinement) -> None:
    fd = confinement.ruleset_fd
    if fd is None:
        shared = rules(confinement.view, confinement.layers)
        try:
            # The scratch is the current folder, which can be opened even if the folders above it cannot.
            fd = own_ruleset(shared, os.curdir)
        finally:
            shared.close()
    syscalls.landlock_restrict(fd)
    os.close(fd)


def filter_calls(confinement: Confinement) -> None:
    assert confinement.filter is not None
    confinement.filter.install()


def rules(view: View, layers: frozenset[str]) -> landlock.Rules:
    """Landlock's rules. In a minimal root, whose own files nobody can write, they are the same for every jail.

    A rule for what will be mounted on a directory has to be on the directory above it: Landlock, on its way up from a
    file, passes over the one that is hidden by the mount.
    """
    if "minimal_root" in layers:
        return landlock.Rules(read=("/",), write=(os.path.dirname(SHARED_MEMORY),), devices=view.devices)
    return landlock.Rules(read=view.readable(), write=(), devices=view.devices)


def own_ruleset(shared: landlock.Rules, scratch: str) -> int:
    """In a jail that sees the machine's files: its own scratch and its own part of /proc beside what all may read."""
    return shared.ruleset(read=root.OWN_PROC_FILES, write=(scratch,))


ALWAYS = "always"
Layer = Callable[[Confinement], None]

# The order matters: what needs privileges comes first, what takes them away after it, the filter last of all.
CHILD_LAYERS: tuple[tuple[str, Layer], ...] = (
    ("parent_death", own_session),
    ("parent_death", die_with_zygote),
    ("descendants_killed", adopt_orphans),
    ("mount_namespace", own_mounts),
    ("ipc_namespace", own_ipc),
    ("scratch_tmpfs", private_scratch),
    (ALWAYS, enter_scratch),
    ("rlimits", common_limits),
    # While this process may: a change of uid takes the right to do so.
    ("no_capabilities", no_bounding_set),
    ("own_uid", own_uid),
    ("no_capabilities", no_capabilities),
    ("no_new_privs", no_new_privileges),
    (ALWAYS, dumpable),
    ("landlock", restrict_files),
)
LAST_LAYERS: tuple[tuple[str, Layer], ...] = (("seccomp", filter_calls),)


class LayerFailed(Exception):
    """A layer that this machine offered could not be applied."""


def confine(confinement: Confinement) -> None:
    """Apply every layer but the last to this process. Raises ``LayerFailed`` naming the first that did not work."""
    _apply(CHILD_LAYERS, confinement)


def seal(confinement: Confinement) -> None:
    """Apply the filter of system calls; a device has to be open by then. Raises ``LayerFailed``."""
    _apply(LAST_LAYERS, confinement)


def _apply(layers: Sequence[tuple[str, Layer]], confinement: Confinement) -> None:
    for name, layer in layers:
        if name != ALWAYS and name not in confinement.layers:
            continue
        try:
            layer(confinement)
        except OSError as error:
            raise LayerFailed(f"{name}: {error}") from error
