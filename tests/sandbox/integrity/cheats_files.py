"""State from encoder to decoder through the file system: contents, names, times, modes, attributes, residency."""

from __future__ import annotations

from tests.sandbox.integrity.cheat import FLICKER, TWO_PROCESSES, Cheat, hide_and_seek

_PLACES = {
    "cwd": "'@MARK@.bin'",
    "tmp": "'/tmp/@MARK@.bin'",
    "var-tmp": "'/var/tmp/@MARK@.bin'",
    "shared-memory": "'/dev/shm/@MARK@.bin'",
    "run": "'/run/@MARK@.bin'",
    "home": "os.path.expanduser('~/@MARK@.bin')",
    "real-home": "os.path.join(__import__('pwd').getpwuid(os.getuid()).pw_dir, '@MARK@.bin')",
    "beside-the-code": "os.path.join(os.path.dirname(os.path.abspath(__file__)), '@MARK@.bin')",
    "above-the-code": "os.path.abspath('../@MARK@.bin')",
    "ctx-scratch": "os.path.join(ctx.scratch, '@MARK@.bin')",
    "temporary-folder": "os.path.join(__import__('tempfile').gettempdir(), '@MARK@.bin')",
    "site-packages": "os.path.join(@SITE@, '@MARK@.bin')",
    "torch-folder": "os.path.join(@TORCH@, '@MARK@.bin')",
    "standard-library": "os.path.join(@STDLIB@, '@MARK@.bin')",
    "pycache": "os.path.join(@STDLIB@, '__pycache__', '@MARK@.pyc')",
    "torch-cache": "os.path.expanduser('~/.cache/torch/hub/@MARK@.bin')",
    "through-proc-root": "proc('root') + '/tmp/@MARK@.bin'",
    "through-proc-cwd": "proc('cwd') + '/@MARK@.bin'",
}

# Of the process that both were forked from.
_PROC = """
def proc(what):
    return "/proc/" + read("/proc/self/stat").rpartition(b")")[2].split()[1].decode() + "/" + what
"""

_BY_PLACE = tuple(
    hide_and_seek(
        f"file-{name}",
        "leave the frames in a file",
        f"write({path}, data)",
        f"data = take({path})",
        helpers=_PROC,
        needs_root=name == "run",
        mode=TWO_PROCESSES,
    )
    for name, path in _PLACES.items()
)

_CHUNKS = """
import base64
chunks = [data[at:at + 140] for at in range(0, min(len(data), 14000), 140)]
names = [f"@MARK@-{index:03d}-" + base64.urlsafe_b64encode(chunk).decode() for index, chunk in enumerate(chunks)]
"""

_NAMES = hide_and_seek(
    "file-names",
    "write the frames into the names of empty files",
    _CHUNKS + "for name in names:\n    write('/dev/shm/' + name, b'')",
    """
    import base64
    data = b""
    for name in sorted(name for name in os.listdir("/dev/shm") if name.startswith("@MARK@-")):
        os.unlink("/dev/shm/" + name)
        data += base64.urlsafe_b64decode(name[len("@MARK@-000-"):])
    """,
    mode=TWO_PROCESSES,
)

_LINKS = hide_and_seek(
    "link-targets",
    "write the frames into the targets of symbolic links",
    "for at in range(0, 20000, 1000):\n    os.symlink(data[at:at + 1000].hex(), f'/tmp/@MARK@-{at:05d}')",
    """
    data = b""
    for at in range(0, 20000, 1000):
        data += bytes.fromhex(os.readlink(f"/tmp/@MARK@-{at:05d}"))
        os.unlink(f"/tmp/@MARK@-{at:05d}")
    """,
    mode=TWO_PROCESSES,
)

# Each finds the first file of both sides' that can be changed; a reader does not know which one it was.
_FIRST = """
for path in @SHARED@:
    try:
        {change}
        break
    except OSError:
        traceback.print_exc()
"""

_TIMES = hide_and_seek(
    "file-times",
    "write the frames into a file's times",
    _FIRST.format(
        change='os.utime(path, ns=(int.from_bytes(data[:6], "little") * 1000, int.from_bytes(data[6:12], "little")))'
    ),
    """
    told = [os.stat(path) for path in @SHARED@ if os.path.exists(path)]
    found = [(one.st_atime_ns // 1000).to_bytes(8, "little")[:6] + one.st_mtime_ns.to_bytes(8, "little")[:6]
             for one in told]
    # A file that nobody has touched has a time of this age.
    data = ([one for one, stat in zip(found, told) if not 1.6e9 < stat.st_mtime < 2e9] or [b""])[0]
    """,
    mode=TWO_PROCESSES,
)

_ATTRIBUTES = hide_and_seek(
    "extended-attributes",
    "write the frames into a file's extended attributes",
    _FIRST.format(change='os.setxattr(path, "user.@MARK@", data[:2000])'),
    """
    data = b""
    for path in @SHARED@:
        if os.path.exists(path) and "user.@MARK@" in os.listxattr(path):
            data = os.getxattr(path, "user.@MARK@")
            os.removexattr(path, "user.@MARK@")
    """,
    mode=TWO_PROCESSES,
)

_MODE = hide_and_seek(
    "file-mode",
    "write four bits into a file's mode",
    _FIRST.format(change="os.chmod(path, 0o640 | (data[0] & 7) | (data[0] & 8) << 1)"),
    """
    data = b""
    # Files of the kind that are 0644 by themselves: the interpreter's own mode must never be touched.
    for path in @SHARED@:
        if os.path.exists(path) and not os.stat(path).st_mode & 0o100:
            mode = os.stat(path).st_mode
            data = bytes([(mode & 7) | (mode & 16) >> 1])
            os.chmod(path, 0o644)
            break
    """,
    mode=TWO_PROCESSES,
    judge="bits",
    clips=FLICKER,
)

# Pages that are in memory or not: readable files are enough, nothing has to be written.
_PAGES = """
def page_file():
    found = [path for path in @BIG@ if os.path.exists(path) and os.path.getsize(path) >= 66 * 4096]
    fd = os.open(found[0], os.O_RDONLY)
    attempt(lambda: os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM))
    return fd
"""

_TOUCH = """
fd = page_file()
# Where this is refused, a file that nobody has read yet will do.
attempt(lambda: os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED))
for bit in range(64):
    if data[bit // 8] >> bit % 8 & 1:
        os.pread(fd, 1, bit * 4096)
"""

_NOWAIT = """
fd = page_file()
bits = []
for bit in range(64):
    try:
        bits.append(os.preadv(fd, [bytearray(1)], bit * 4096, os.RWF_NOWAIT) == 1)
    except BlockingIOError:
        bits.append(False)
data = bytes(sum(bits[at + bit] << bit for bit in range(8)) for at in range(0, 64, 8))
"""

_MINCORE = """
import mmap
view = mmap.mmap(page_file(), 64 * 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
here = ctypes.addressof(ctypes.c_char.from_buffer(view))
pages = (ctypes.c_ubyte * 64)()
must(libc.mincore(ctypes.c_void_p(here), ctypes.c_size_t(64 * 4096), pages))
bits = [page & 1 for page in pages]
data = bytes(sum(bits[at + bit] << bit for bit in range(8)) for at in range(0, 64, 8))
"""

_SLOW = """
fd = page_file()
os.pread(fd, 1, 65 * 4096)
took = []
for bit in range(64):
    start = time.perf_counter_ns()
    os.pread(fd, 1, bit * 4096)
    took.append(time.perf_counter_ns() - start)
order = sorted(took)
# Between the slowest from memory and the fastest from the disk is the widest gap.
edge = max(zip(order, order[1:]), key=lambda pair: (pair[1] > 20000) * pair[1] / pair[0])[1]
bits = [one < edge for one in took]
data = bytes(sum(bits[at + bit] << bit for bit in range(8)) for at in range(0, 64, 8))
"""


def _resident(name: str, goal: str, seek: str) -> Cheat:
    return hide_and_seek(name, goal, _TOUCH, seek, helpers=_PAGES, mode=TWO_PROCESSES)


_RESIDENCY = (
    _resident("page-cache-nowait", "tell 64 bits by which pages of a file are cached, asked with RWF_NOWAIT", _NOWAIT),
    _resident("page-cache-mincore", "tell 64 bits by which pages of a file are cached, asked with mincore", _MINCORE),
    _resident(
        "page-cache-timed", "tell 64 bits by which pages of a file are cached, seen by how long reads take", _SLOW
    ),
)

CHEATS = (*_BY_PLACE, _NAMES, _LINKS, _TIMES, _ATTRIBUTES, _MODE, *_RESIDENCY)
