"""What lies outside the jail: the targets of the attacks, and how one sees that they have been harmed."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import secrets
import select
import signal
import socket
import stat
import subprocess
import tempfile
import time
import tty
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from tests.sandbox.battery import ipc
from tests.sandbox.battery.victims import Victim
from tests.sandbox.jails import marked

_REPO = Path(__file__).resolve().parents[3]
_NAMES = ("written", "chmodded", "dated", "truncated", "unlinked", "renamed", "linked", "tagged", "owned")
_EMPTY_DISKS = ("/dev/loop", "/dev/zram", "/dev/ram")
_CONTENT = b"a file of the host\n" * 10


class _Closes(Protocol):
    def close(self) -> None: ...


_Kind = TypeVar("_Kind", bound=_Closes)


class World:
    """Targets outside the jail. ``facts`` are their coordinates, by name; what this machine cannot make is absent."""

    def __init__(self) -> None:
        self.facts: dict[str, str] = {}
        self._closing: list[Callable[[], None]] = []
        self._before: dict[str, str] = {}
        self.removes_everything = os.geteuid() == 0
        pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
        self.cores_elsewhere = f"core dumps go to {pattern!r}" if pattern[:1] in ("|", "/") else None

    def __enter__(self) -> Self:
        try:
            self._make_files()
            self._make_sockets()
            self._make_ipc()
            self._make_terminal()
            self._note_machine()
            self.victim = Victim(str(self.folder))
            self._closing.append(self.victim.close)
            self.mend()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._end_marked()
        while self._closing:
            self._closing.pop()()

    def _make_files(self) -> None:
        folder = tempfile.mkdtemp(prefix="bitlane-battery-")
        self.folder = Path(folder)
        self._closing.append(lambda: _remove_tree(folder))
        self.mark = f"bl{secrets.token_hex(5)}"
        self.target, self.scratch = self.folder / "target", self.folder / "scratch"
        secret, readable = self.folder / "secret", self.folder / "readable"
        self.facts.update(mark=self.mark, folder=folder, folder_name=self.folder.name, repo=str(_REPO))
        for name, path, mode in (("secret", secret, 0o600), ("readable", readable, 0o644)):
            self.facts[f"{name}_content"] = secrets.token_hex(16)
            path.write_text(self.facts[f"{name}_content"])
            path.chmod(mode)
            self.facts[name] = str(path)
        shared = Path("/dev/shm") / f"battery-{secrets.token_hex(5)}"
        self.facts["shm_content"] = secrets.token_hex(16)
        shared.write_text(self.facts["shm_content"])
        shared.chmod(0o666)
        self._closing.append(lambda: shared.unlink(missing_ok=True))
        self.facts.update(shm_file=str(shared), target=str(self.target))
        # The files' modes are wide open, so that it is the jail that stops an attack and not they.
        self.scratch.mkdir()
        self.folder.chmod(0o755)
        self.scratch.chmod(0o755)
        with suppress(OSError):
            kind, data = ipc.handle_of(str(secret))
            self.facts.update(handle_kind=str(kind), handle_data="h" + data.hex())

    def _make_sockets(self) -> None:
        path, abstract = str(self.folder / "socket"), f"\0battery-{secrets.token_hex(5)}"
        listeners = {
            "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "tcp_six": (socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0)),
            "unix": (socket.AF_UNIX, socket.SOCK_STREAM, path),
            "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, abstract),
        }
        self._listeners: dict[str, socket.socket] = {}
        for name, (family, kind, address) in listeners.items():
            try:
                made = self._kept(socket.socket(family, kind))
                made.bind(address)
            except OSError as error:
                if name != "tcp_six" or error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                continue
            made.setblocking(False)
            if kind == socket.SOCK_STREAM:
                made.listen(16)
            self._listeners[name] = made
            if family != socket.AF_UNIX:
                self.facts[f"{name}_port"] = str(made.getsockname()[1])
        os.chmod(path, 0o666)
        self.facts.update(unix_path=path, abstract_name=abstract, tcp_port_hex=f":{int(self.facts['tcp_port']):04X}")

    def _make_ipc(self) -> None:
        for name in ("shared", "messages", "queue"):
            self.facts[f"{name}_content"] = secrets.token_hex(16)
        key = secrets.randbelow(2**30) + 1
        self._shared: ipc.Shared | None = None
        self._semaphore: ipc.Semaphore | None = None
        with suppress(OSError):
            self._shared = self._kept(ipc.Shared(key, self.facts["shared_content"].encode()))
            self.facts.update(shared_key=str(key), shared_id=str(self._shared.id))
        with suppress(OSError):
            self._semaphore = self._kept(ipc.Semaphore(key))
            self.facts["semaphore_id"] = str(self._semaphore.id)
        self._key = key
        self._queues: list[_Closes] = []
        self._closing.append(self._close_queues)

    def _make_terminal(self) -> None:
        master, slave = os.openpty()
        self._closing += [lambda: os.close(master), lambda: os.close(slave)]
        tty.setraw(slave)
        with suppress(OSError):
            os.fchmod(slave, 0o666)
        self._terminal = {"written to": master, "typed into": slave}
        self.facts["terminal"] = os.ttyname(slave)

    def _note_machine(self) -> None:
        home = os.path.expanduser("~")
        with suppress(OSError):
            if os.listdir(home):
                self.facts["home"] = home
        disks = [line.split()[-1] for line in Path("/proc/partitions").read_text().splitlines()[2:] if line]
        nodes = [f"/dev/{name}" for name in disks if stat.S_ISBLK(_mode(f"/dev/{name}"))]
        # One that the service could read first; loop devices and compressed memory have nothing in them.
        nodes = sorted(nodes, key=lambda node: (not _opens(node), node.startswith(_EMPTY_DISKS)))
        if nodes:
            self.facts.update(disk=nodes[0], disk_number=str(os.stat(nodes[0]).st_rdev))
        self.facts.update(service_pid=str(os.getpid()), hostname=socket.gethostname())

    def _kept(self, made: _Kind) -> _Kind:
        self._closing.append(made.close)
        return made

    def check(self) -> str | None:
        """What has been harmed, in words; None if nothing was."""
        found = self.harms()
        return "; ".join(f"{kind}: {how}" for kind, how in found.items()) or None

    def harms(self) -> dict[str, str]:
        """What has been harmed, by kind: processes, victim, target, left, sockets by name, ipc, terminal."""
        found: dict[str, str | None] = {
            "processes": self._look_at_processes(),
            "victim": self.victim.harm(),
            "target": self._look_at_target(),
            "left": self._look_for_files(),
            "ipc": self._look_at_ipc(),
            "terminal": self._look_at_terminal(),
        }
        found |= {name: _received(listener) for name, listener in self._listeners.items()}
        return {kind: how for kind, how in found.items() if how}

    def mend(self) -> None:
        """Make everything as it was, with new coordinates where that is needed."""
        self._end_marked()
        for path in self._left():
            if os.path.isdir(path) and not os.path.islink(path):
                _remove_tree(path)
            else:
                os.unlink(path)
        for listener in self._listeners.values():
            _received(listener)
        self._look_at_terminal()
        self.victim.mend()
        self.facts.update(self.victim.facts)
        if self._shared is not None:
            self._shared.write(self.facts["shared_content"].encode())
        if self._semaphore is not None:
            self._semaphore.reset()
        self._renew_queues()
        if not self._before or self._look_at_target():
            self._make_target()
        Path(self.facts["shm_file"]).write_text(self.facts["shm_content"])

    def _renew_queues(self) -> None:
        """A message that somebody took is gone, so the queues are made anew."""
        self._close_queues()
        with suppress(OSError):
            messages = ipc.Messages(self._key, self.facts["messages_content"].encode())
            self._queues.append(messages)
            self.facts["messages_id"] = str(messages.id)
        with suppress(OSError):
            queue = ipc.PosixQueue(f"battery-{self.mark}", self.facts["queue_content"].encode())
            self._queues.append(queue)
            self.facts["queue_name"] = queue.name

    def _close_queues(self) -> None:
        while self._queues:
            self._queues.pop().close()

    def _make_target(self) -> None:
        if self.target.exists():
            _remove_tree(str(self.target))
        self.target.mkdir()
        self.target.chmod(0o777)
        for name in _NAMES:
            (self.target / name).write_bytes(_CONTENT)
            (self.target / name).chmod(0o666)
        self._before = _snapshot(self.target)

    def _look_at_target(self) -> str | None:
        now = _snapshot(self.target)
        changed = [
            f"{name}: {self._before.get(name, 'not there')} -> {now.get(name, 'gone')}"
            for name in sorted(self._before | now)
            if self._before.get(name) != now.get(name)
        ]
        return ", ".join(changed)[:300] or None

    def _left(self) -> list[str]:
        places = ("/tmp", "/dev/shm", "/var/tmp", "/")
        found = [path for place in places for path in glob.glob(f"{place}/*{self.mark}*")]
        return found + [str(path) for path in self.scratch.iterdir()]

    def _look_for_files(self) -> str | None:
        return ", ".join(self._left())[:300] or None

    def _look_at_processes(self) -> str | None:
        left = marked(self.mark)
        return f"{len(left)} processes are left" if left else None

    def _look_at_ipc(self) -> str | None:
        if self._shared is not None and self._shared.content() != self.facts["shared_content"].encode():
            return "the shared segment was changed"
        if self._semaphore is not None and self._semaphore.value() != 1:
            return f"the semaphore is at {self._semaphore.value()}"
        if Path(self.facts["shm_file"]).read_bytes() != self.facts["shm_content"].encode():
            return "the file in /dev/shm was changed"
        return None

    def _look_at_terminal(self) -> str | None:
        for how, fd in self._terminal.items():
            if select.select([fd], [], [], 0)[0]:
                return f"the terminal was {how}: {os.read(fd, 4096)!r}"
        return None

    def _end_marked(self) -> None:
        """Also what forks itself anew all the time, and so is not always to be seen."""
        deadline, quiet, enough = time.monotonic() + 5, 0, 3
        while self.facts and quiet < enough and time.monotonic() < deadline:
            left = marked(self.mark)
            quiet, enough = (0, 50) if left else (quiet + 1, enough)
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)


def _received(listener: socket.socket) -> str | None:
    """Whether anybody connected or sent; it is taken from the queue."""
    with suppress(BlockingIOError):
        if listener.type == socket.SOCK_DGRAM:
            return f"received {listener.recvfrom(2048)[0]!r}"
        connection, _ = listener.accept()
        connection.close()
        return "accepted a connection"
    return None


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0


def _opens(path: str) -> bool:
    with suppress(OSError):
        os.close(os.open(path, os.O_RDONLY))
        return True
    return False


def _snapshot(folder: Path) -> dict[str, str]:
    """All of a folder that an attack could change. Times of access are left out: reading changes them."""
    found = {".": f"{os.lstat(folder).st_mode:o}"}
    for path in sorted(folder.iterdir()):
        about = path.lstat()
        content = hashlib.sha1(path.read_bytes()).hexdigest()[:8] if stat.S_ISREG(about.st_mode) else "-"
        tags = "+".join(os.listxattr(path, follow_symlinks=False))
        owner = f"{about.st_uid}:{about.st_gid}"
        words = (f"{about.st_mode:o}", owner, about.st_size, about.st_mtime_ns, about.st_nlink, content, tags)
        found[path.name] = " ".join(map(str, words))
    return found


def _remove_tree(path: str) -> None:
    """Also where it is too deep for shutil."""
    subprocess.run(["chmod", "-R", "u+rwx", "--", path], check=True)
    subprocess.run(["rm", "-rf", "--", path], check=True)
