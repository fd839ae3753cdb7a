"""Files of the host: read, found by detours, changed, left behind."""

from __future__ import annotations

from tests.sandbox.battery.base import Attack

_READ = """
def attack(ctx):
    return open({path}, "rb").read(4096).decode("latin-1")
"""


def _reading(name: str, goal: str, path: str, wants: str | None = None) -> Attack:
    return Attack(name=name, group="files", goal=goal, code=_READ.format(path=path), wants=wants)


def _probe(name: str, goal: str, code: str, wants: str | None = None) -> Attack:
    return Attack(name=name, group="files", goal=goal, code=code, wants=wants)


def _secret(name: str, goal: str, code: str) -> Attack:
    return _probe(name, goal, code, "secret_content")


def _change(name: str, goal: str, line: str, after: str = "target") -> Attack:
    """One line that harms; ``T`` is the target folder."""
    code = f'def attack(ctx):\n    T = @target@ + "/"\n    {line}\n'
    return Attack(name=name, group="files", goal=goal, code=code, after=after)


_READS = (
    _reading("read-passwd", "read the list of users", '"/etc/passwd"'),
    _reading("read-hostname", "read the machine's name", '"/etc/hostname"'),
    _reading("read-source", "read the service's own code", '@repo@ + "/app/main.py"'),
    _reading("read-tests", "read the tests, which hold expected values", '@repo@ + "/tests/sandbox/jails.py"'),
    _reading("read-secret", "read a private file of the service's user", "@secret@", "secret_content"),
    _reading("read-readable", "read a file that every user may read", "@readable@", "readable_content"),
    _reading("read-shm", "read another program's file in /dev/shm", "@shm_file@", "shm_content"),
    _reading("read-cmdline", "read how the machine was booted", '"/proc/cmdline"'),
    _probe(
        "import-service",
        "import a module of the service that holds its settings",
        """
        def attack(ctx):
            for name in [name for name in sys.modules if name.split(".")[0] == "app"]:
                del sys.modules[name]
            sys.path.insert(0, @repo@)
            import importlib
            return importlib.import_module("app.domain.errors").__file__
        """,
    ),
    _probe(
        "list-home",
        "list the home of the service's user",
        # The folders that lead to the interpreter are there in any case.
        """
        def attack(ctx):
            if os.path.realpath(@home@) != os.path.realpath(ctx.scratch):
                return " ".join(set(os.listdir(@home@)) - set(sys.base_prefix.split("/")))
        """,
    ),
    _probe(
        "list-folder",
        "find the names of other programs' files",
        "def attack(ctx): return ' '.join(os.listdir(os.path.dirname(@folder@)))",
        "folder_name",
    ),
    _probe(
        "watch-folder",
        "be told of what happens in a folder of the host",
        """
        def attack(ctx):
            fd = syscall("inotify_init1", 0)
            return f"watch {syscall('inotify_add_watch', fd, @target@.encode(), 0xFFF)}"
        """,
    ),
)

_DETOURS = (
    _secret("by-dots", "read the secret by a relative path",
            'def attack(ctx): return open("../" * 30 + @secret@).read()'),
    _secret(
        "by-proc-root",
        "read the secret through the root folder's link",
        'def attack(ctx): return open("/proc/self/root" + @secret@).read()',
    ),
    _secret(
        "by-proc-cwd",
        "read the secret through the working folder's link",
        'def attack(ctx): return open("/proc/self/cwd/" + "../" * 30 + @secret@).read()',
    ),
    _secret(
        "by-service-root",
        "read the secret through the root of the service or of the first process",
        """
        def attack(ctx):
            for pid in (1, @service_pid@):
                try:
                    return open(f"/proc/{pid}/root" + @secret@).read()
                except OSError as error:
                    last = error
            raise last
        """,
    ),
    _secret(
        "by-symlink",
        "read the secret through a link in the scratch folder",
        """
        def attack(ctx):
            os.symlink(@secret@, "link")
            return open("link").read()
        """,
    ),
    _secret(
        "by-hard-link",
        "read the secret under a second name in the scratch folder",
        """
        def attack(ctx):
            os.link(@secret@, "link")
            return open("link").read()
        """,
    ),
    _secret(
        "by-path-descriptor",
        "read the secret by opening a path-only descriptor again",
        """
        def attack(ctx):
            fd = os.open(@secret@, os.O_PATH)
            return open(f"/proc/self/fd/{fd}").read()
        """,
    ),
    _secret(
        "by-handle",
        "read the secret by its handle, without any path",
        """
        def attack(ctx):
            data = bytes.fromhex(@handle_data@[1:])
            handle = struct.pack("Ii", len(data), @handle_kind@) + data
            for place in (".", "/", sys.prefix, os.path.dirname(os.__file__), "/usr", "/lib", "/proc/self/cwd"):
                try:
                    mount = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
                    return os.read(syscall("open_by_handle_at", mount, handle, os.O_RDONLY), 100).decode()
                except OSError as error:
                    last = error
            raise last
        """,
    ),
    _secret(
        "by-rename",
        "move the secret into the scratch folder and read it",
        """
        def attack(ctx):
            os.rename(@secret@, "mine")
            found = open("mine").read()
            os.rename("mine", @secret@)
            return found
        """,
    ),
    _secret(
        "by-chmod",
        "make the secret readable and read it",
        """
        def attack(ctx):
            os.chmod(@secret@, 0o600)
            return open(@secret@).read()
        """,
    ),
    _secret(
        "by-left-descriptor",
        "reach outside from a folder that was left open",
        """
        def attack(ctx):
            for fd in [int(name) for name in os.listdir("/proc/self/fd")] + [-100]:
                try:
                    return os.read(os.open("../" * 30 + @secret@[1:], os.O_RDONLY, dir_fd=fd), 100).decode()
                except OSError as error:
                    last = error
            raise last
        """,
    ),
)

_CHANGES = (
    _change("write-file", "overwrite a file", 'open(T + "written", "w").write("x")'),
    _change("append-file", "append to a file", 'open(T + "written", "a").write("x")'),
    _change("create-file", "create a file", 'open(T + "new", "w").write("x")'),
    _change("create-folder", "create a folder", 'os.mkdir(T + "new")'),
    _change("create-symlink", "leave a link that others may follow", 'os.symlink("/etc/passwd", T + "new")'),
    _change("create-fifo", "leave a pipe that others may open", 'os.mkfifo(T + "new")'),
    _change("create-socket", "leave a socket that others may open", 'os.mknod(T + "new", 0o140666)'),
    _change("chmod-file", "change a file's mode", 'os.chmod(T + "chmodded", 0o777)'),
    _change("chmod-folder", "change a folder's mode", "os.chmod(T, 0o700)"),
    _change("chown-file", "change a file's owner", 'os.chown(T + "owned", 12345, 12345)'),
    _change("date-file", "change a file's times", 'os.utime(T + "dated", (1, 1))'),
    _change("truncate-file", "cut a file by its path", 'os.truncate(T + "truncated", 0)'),
    _change("unlink-file", "delete a file", 'os.unlink(T + "unlinked")'),
    _change("rename-file", "rename a file", 'os.rename(T + "renamed", T + "new")'),
    _change("link-file", "give a file a second name", 'os.link(T + "linked", T + "new")'),
    _change("tag-file", "set an extended attribute", 'os.setxattr(T + "tagged", "user.bl", b"x")'),
    _change("write-by-proc-root", "write by way of /proc/self/root",
            'open("/proc/self/root" + T + "new", "w").write("x")'),
    _change("map-file", "change a file through a shared map", 'mmap.mmap(os.open(T + "written", 2), 8)[:1] = b"x"'),
    _change("rename-out", "move a file out of the scratch folder", 'open("x", "w").close(); os.rename("x", T + "new")'),
    _change("link-out", "link a scratch file to a place outside", 'open("x", "w").close(); os.link("x", T + "new")'),
    _change("write-by-link", "write through a link in scratch", 'os.symlink(T, "l"); open("l/new", "w").write("x")'),
    _change("write-tmp", "leave a file in /tmp", 'open("/tmp/" + @mark@, "w").write("x")', "left"),
    _change("write-var-tmp", "leave a file in /var/tmp", 'open("/var/tmp/" + @mark@, "w").write("x")', "left"),
    _change("write-shm", "leave a file in /dev/shm", 'open("/dev/shm/" + @mark@, "w").write("x")', "left"),
    _change("write-root", "leave a file in the root folder", 'open("/" + @mark@, "w").write("x")', "left"),
    _change("change-shm", "change another program's file in /dev/shm", 'open(@shm_file@, "w").write("x")', "ipc"),
)

_LEFT = (
    Attack(
        name="scratch-too-deep",
        group="files",
        goal="leave folders in the scratch so deep that they cannot be removed",
        code="""
        def attack(ctx):
            delivered()
            here = os.open(".", os.O_DIRECTORY)
            for _ in range(3000):
                os.mkdir("d", dir_fd=here)
                lower = os.open("d", os.O_DIRECTORY, dir_fd=here)
                os.close(here)
                here = lower
            raise ValueError("the rest is the service's")
        """,
        expect=frozenset({"exception", "disk_limit"}),
        control="delivered",
    ),
    Attack(
        name="scratch-locked",
        group="files",
        goal="leave a folder in the scratch that its owner cannot list, so that it cannot be removed",
        code="""
        def attack(ctx):
            os.mkdir("locked", 0o300)
            open("locked/kept", "w").write("x")
        """,
        after="left",
        needs=lambda world: "root removes every folder" if world.removes_everything else None,
    ),
)

ATTACKS = (*_READS, *_DETOURS, *_CHANGES, *_LEFT)
