"""What of the file system a jail can see: the interpreter, its standard library, named packages, and no more.

Packages carry media and our own code lies beside them, so that ``site-packages`` as a whole is never shown. The same
list serves twice: for a minimal read-only root of bind mounts, and for Landlock.
"""

from __future__ import annotations

import glob
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec

from app.sandbox import environment, syscalls

# Where the scratch is mounted; the one place that can be written.
SHARED_MEMORY = "/dev/shm"
SCRATCH = f"{SHARED_MEMORY}/scratch"

# What submissions may import, what those import, and the libraries that come with their wheels.
PACKAGES = (
    *("torch", "torchgen", "functorch", "numpy", "av", "PIL", "msgpack", "cv2"),
    *("sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec", "typing_extensions"),
    *("nvidia", "triton"),
)
_WHEEL_LIBRARIES = ("numpy.libs", "av.libs", "pillow.libs", "opencv_python_headless.libs")
PACKAGE_FOLDERS = ("site-packages", "dist-packages")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime")
# Of its own part of /proc a jail does not see what is below ``net`` and ``task``: the machine's connections.
OWN_PROC_FILES = tuple(
    f"/proc/self/{name}"
    for name in ("auxv", "cmdline", "comm", "fd", "fdinfo", "limits", "maps", "smaps", "stat", "statm", "status")
)
_PROC_FILES = ("/proc/cpuinfo", "/proc/meminfo")
# Not /dev/zero: what is mapped of it is shared memory that nobody counts.
_DEVICES = ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")
_TIME_ZONES = "/usr/share/zoneinfo"
_OPTIONAL_DEVICES = "/dev/nvidia-caps/"
_CUDA_DEVICES = ("/dev/nvidia*", f"{_OPTIONAL_DEVICES}*")
_CUDA_PROC_FILES = ("/proc/devices", "/proc/driver/nvidia")
_CUDA_FOLDERS = ("/sys", "/usr/local/nvidia", "/usr/local/cuda")
_LINKS = {"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1"}

# How mountinfo writes blanks and backslashes.
_ESCAPED = re.compile(r"\\(\d{3})")

_ROOT_OPTIONS = "mode=0755,size=4m"
# The mount flags that a restricted user may not take off, as statvfs tells them and as mount takes them.
_LOCKED_FLAGS = {os.ST_NOEXEC: 0x8, os.ST_NOATIME: 0x400, os.ST_NODIRATIME: 0x800, os.ST_RELATIME: 0x200000}


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """Absolute paths. ``folders`` may hold package folders, which stay hidden; ``packages`` are shown by name.

    ``proc`` is what may be read of the machine's own /proc, where there is no other.
    """

    folders: tuple[str, ...]
    packages: tuple[str, ...]
    files: tuple[str, ...]
    devices: tuple[str, ...]
    proc: tuple[str, ...]

    def readable(self) -> tuple[str, ...]:
        """What Landlock opens for reading where the whole machine's files are in sight."""
        folders = [path for folder in self.folders for path in _without_packages(folder)]
        return (*folders, *self.packages, *self.files, *self.proc)


def view(*, cuda: bool) -> View:
    folders = [*_standard_library(), *_system_libraries(), _TIME_ZONES, *(_CUDA_FOLDERS if cuda else ())]
    patterns = (*_DEVICES, *(_CUDA_DEVICES if cuda else ()))
    return View(
        folders=_there(folders),
        packages=_there(_packages()),
        files=_there(_SYSTEM_FILES),
        devices=tuple(path for pattern in patterns for path in sorted(glob.glob(pattern)) if not os.path.isdir(path)),
        proc=_there((*_PROC_FILES, *(_CUDA_PROC_FILES if cuda else ()))),
    )


def is_optional(device: str) -> bool:
    """Whether work can be done without it: what partitions a device is for its administrator alone."""
    return device.startswith(_OPTIONAL_DEVICES)


def _there(paths: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(path for path in dict.fromkeys(paths) if os.path.exists(path))


def _standard_library() -> list[str]:
    """With a virtual environment these are the base interpreter's."""
    found = [sysconfig.get_path("stdlib")]
    dynamic = os.path.join(sys.base_exec_prefix, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    return [*found, dynamic]


def _system_libraries() -> list[str]:
    triplet = sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu"
    below = [f"{root}/{triplet}" for root in ("/lib", "/usr/lib", "/usr/local/lib")]
    return [*below, "/lib64", "/usr/lib64", *environment.library_folders()]


def _packages() -> list[str]:
    found: list[str] = []
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None:
            continue
        found += spec.submodule_search_locations or ([spec.origin] if spec.origin else [])
    beside = dict.fromkeys(os.path.dirname(path) for path in found)
    return [*found, *(os.path.join(folder, name) for folder in beside for name in _WHEEL_LIBRARIES)]


def _hidden(folder: str) -> list[str]:
    """The package folders directly in a library folder, or in a Python's folder in it."""
    patterns = (f"{folder}/{below}{name}" for name in PACKAGE_FOLDERS for below in ("", "python*/"))
    return [path for pattern in patterns for path in glob.glob(pattern)]


def _without_packages(folder: str) -> Iterator[str]:
    """The folder, or where it holds package folders its entries without them."""
    if not _hidden(folder):
        yield folder
        return
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name in PACKAGE_FOLDERS:
            continue
        if name.startswith("python") and os.path.isdir(path):
            yield from _without_packages(path)
        else:
            yield path


def bring_in(shown: View) -> None:
    """Have the kernel read everything that jails may read.

    Whether a page of a file is in memory shows in how long it takes to read: with all of them there, and every call
    refused that would push them out, one jail cannot leave a sign for the next by reading.
    """
    libraries = (folder for folder in shown.folders if folder not in _CUDA_FOLDERS)
    for top in (*libraries, *shown.packages, *shown.files):
        for path in _files_below(top):
            with suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
                os.close(fd)


def _files_below(top: str) -> Iterator[str]:
    if not os.path.isdir(top):
        yield top
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if name not in PACKAGE_FOLDERS]
        yield from (os.path.join(folder, name) for name in names)


def enter(shown: View) -> None:
    """Make a root of read-only bind mounts and go into it; the machine's own is out of reach afterwards.

    This process has a mount namespace of its own, and a PID namespace of which it is the first process.
    """
    new = SHARED_MEMORY  # nothing that is shown lies there
    syscalls.mount("root", new, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, _ROOT_OPTIONS)
    ours = [new]
    for folder in shown.folders:
        _show(folder, new)
        for hidden in _hidden(folder):
            ours.append(new + hidden)
            syscalls.mount("hidden", new + hidden, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, _ROOT_OPTIONS)
    for path in (*shown.packages, *shown.files):
        _show(path, new)
    for path in shown.devices:
        _bind(path, new)
    _furnish(new)
    _mount_proc(f"{new}/proc")
    for place in ours:
        # Only now that there is nothing left to be put there; one jail could leave something there for the next.
        syscalls.mount("", place, "", syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY | syscalls.MS_NOSUID)
    os.chdir(new)
    syscalls.pivot_root(".", ".")
    syscalls.detach(".")
    os.chdir("/")


def _show(path: str, new: str) -> None:
    """Read-only, with all that is mounted below: a flag holds for one mount alone."""
    _bind(path, new)
    for target in _mounts_below(new + path):
        try:
            told = os.statvfs(target).f_flag
        except (PermissionError, FileNotFoundError):
            continue  # behind a folder of another user's, or below another mount: no jail gets there either
        kept = sum(flag for seen, flag in _LOCKED_FLAGS.items() if told & seen)
        flags = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV
        syscalls.mount("", target, "", flags | kept)


def _mounts_below(top: str) -> list[str]:
    """Where something is mounted, ``top`` itself first; where mounts lie on each other, once."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        found = [_ESCAPED.sub(lambda code: chr(int(code[1], 8)), line.split()[4]) for line in file]
    return [top, *dict.fromkeys(path for path in found if path.startswith(top + "/"))]


def _bind(path: str, new: str) -> None:
    target = new + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    # With all that is mounted below: a part of a mount cannot be shown alone to a restricted user.
    syscalls.mount(path, target, "", syscalls.MS_BIND | syscalls.MS_REC)


def _furnish(new: str) -> None:
    for folder in ("/proc", SHARED_MEMORY):
        os.makedirs(new + folder, exist_ok=True)
    # Code that writes to /tmp finds its scratch there.
    for link, target in (*_LINKS.items(), ("/tmp", SCRATCH)):
        with suppress(FileExistsError):
            os.symlink(target, new + link)


def _mount_proc(target: str) -> None:
    """A restricted user may not see more of /proc than was in sight before: then only the processes."""
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    try:
        syscalls.mount("proc", target, "proc", flags)
    except PermissionError:
        syscalls.mount("proc", target, "proc", flags, "subset=pid")


def mount_own_proc(*, whole: bool) -> None:
    """In a jail: its own processes alone, read-only. CUDA also looks for its driver there (``whole``)."""
    flags = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("proc", "/proc", "proc", flags, "" if whole else "subset=pid")
