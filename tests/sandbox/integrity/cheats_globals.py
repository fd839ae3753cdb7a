"""State in the interpreter: from encoder to decoder, and from one rate point or clip to the next."""

from __future__ import annotations

from tests.sandbox.integrity.cheat import TWO_PROCESSES, Cheat, hide_and_seek, source

# (where it is left, where it is found), in one process.
_PLACES = {
    "builtins": ("import builtins; builtins.kept = data", "import builtins; data = builtins.kept"),
    "sys-modules": ("sys.modules['@MARK@'] = data", "data = sys.modules['@MARK@']"),
    "other-module": ("globals()['kept'] = data", "data = sys.modules['encoder'].kept"),
    "torch-attribute": ("torch.nn.functional.kept = data", "data = torch.nn.functional.kept"),
    "numpy-attribute": ("numpy.linalg.kept = data", "data = numpy.linalg.kept"),
    "class-attribute": ("torch.nn.Module.kept = data", "data = torch.nn.Module.kept"),
    "context-class": ("type(ctx).kept = data", "data = type(ctx).kept"),
    "argv": ("sys.argv.append(data.hex())", "data = bytes.fromhex(sys.argv[-1])"),
    "environment": (
        "os.environ['@MARK@'] = data[:9000].hex()",
        "data = bytes.fromhex(os.environ['@MARK@'])",
    ),
    "c-environment": (
        "libc.setenv(b'@MARK@', data[:9000].hex().encode(), 1)",
        "libc.getenv.restype = ctypes.c_char_p\ndata = bytes.fromhex(libc.getenv(b'@MARK@').decode())",
    ),
    "garbage-collector": (
        "kept = ['@MARK@', data]\nsys.setprofile(lambda *event, kept=kept: None)",
        "import gc\ndata = [one for one in gc.get_objects() if type(one) is list and one[:1] == ['@MARK@']][0][1]",
    ),
    "cache": (
        "import functools, re\nre.kept = functools.lru_cache(lambda key: data)\nre.kept(1)\nre._cache[1] = data",
        "import re\ndata = re.kept(1)",
    ),
    "line-cache": (
        "import linecache\nlinecache.cache['@MARK@'] = (1, None, [data.hex()], '')",
        "import linecache\ndata = bytes.fromhex(linecache.getline('@MARK@', 1))",
    ),
    "default-arguments": (
        "import json\njson.dumps.__kwdefaults__['kept'] = data",
        "import json\ndata = json.dumps.__kwdefaults__['kept']",
    ),
    "function-attribute": ("os.path.join.kept = data", "data = os.path.join.kept"),
    "thread-local": (
        "threading.kept = threading.local()\nthreading.kept.data = data",
        "data = threading.kept.data",
    ),
    "thread-attribute": ("threading.main_thread().kept = data", "data = threading.main_thread().kept"),
    "weak-reference": (
        "import weakref\nweakref.finalize(torch.nn.Module, print, data)",
        "import weakref\ndata = [one.args[0] for one in weakref.finalize._registry.values()"
        " if one.args and type(one.args[0]) is bytes][-1]",
    ),
    "import-hook": (
        "import importlib.machinery\n"
        "class Hook:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        return importlib.machinery.ModuleSpec(name, self) if name == '@MARK@' else None\n"
        "    def create_module(self, spec): return None\n"
        "    def exec_module(self, module): module.data = data\n"
        "sys.meta_path.insert(0, Hook())",
        "import importlib\ndata = importlib.import_module('@MARK@').data",
    ),
    "codec-registry": (
        "import codecs\ncodecs.register_error('@MARK@', lambda error, data=data: (data.hex(), error.end))",
        "data = bytes.fromhex(b'\\xff'.decode('ascii', '@MARK@'))",
    ),
    "last-exception": (
        "try:\n    raise ValueError(data)\nexcept ValueError as error:\n    sys.last_value = error",
        "data = sys.last_value.args[0]",
    ),
    "random-state": (
        "import random\nwords = tuple(struct.unpack('<600I', data[:2400])) + (1,) * 24\n"
        "random.setstate((3, words + (624,), None))",
        "import random\ndata = struct.pack('<624I', *random.getstate()[1][:624])[:2400]",
    ),
    "numpy-random-state": (
        "state = list(numpy.random.get_state())\n"
        "state[1] = numpy.frombuffer(data[:2496], numpy.uint32)\nnumpy.random.set_state(tuple(state))",
        "data = numpy.random.get_state()[1].tobytes()",
    ),
    "signal-handler": (
        "signal.signal(signal.SIGUSR2, lambda *args, data=data: data)",
        "data = signal.getsignal(signal.SIGUSR2)()",
    ),
    "process-name": (
        "libc.prctl(15, data[:7].hex().encode(), 0, 0, 0)",
        "data = bytes.fromhex(read('/proc/self/comm').decode())",
    ),
    "open-descriptor": (
        "fd = os.memfd_create('@MARK@')\nos.write(fd, data)\nos.dup2(fd, 99)",
        "data = os.pread(99, os.fstat(99).st_size, 0)",
    ),
    "mapped-memory": (
        "import mmap\nroom = mmap.mmap(-1, 1 << 20)\nroom[:64] = b'@MARK@'.ljust(64)\nroom[64:64 + len(data)] = data\n"
        "globals()['room'] = room",
        "data = b''\n"
        "for line in read('/proc/self/maps').splitlines():\n"
        "    start, end = (int(word, 16) for word in line.split()[0].split(b'-'))\n"
        "    if b'rw-s' in line and end - start == 1 << 20:\n"
        "        found = ctypes.string_at(start, end - start)\n"
        "        data = found[64:] if found.startswith(b'@MARK@') else data",
    ),
    "working-directory": (
        "os.makedirs(data[:40].hex())\nos.chdir(data[:40].hex())",
        "data = bytes.fromhex(os.path.basename(os.getcwd()))",
    ),
    "tensor-attribute": (
        "frames.kept = data",
        "import gc\ntensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]\n"
        "data = [one.kept for one in tensors if hasattr(one, 'kept')][0]",
    ),
}

_BETWEEN_SIDES = tuple(
    hide_and_seek(f"global-{name}", "leave the frames in the interpreter", hide, seek)
    for name, (hide, seek) in _PLACES.items()
)

_IN_PLACE = Cheat(
    name="source-changed-in-place",
    goal="make the source itself grey, so that a grey picture is lossless",
    encoder=source(
        """
        def encode(frames, ctx):
            frames.fill_(128)
            return b""
        """
    ),
    decoder=source("def decode(bitstream, ctx):\n    return shaped(b'', ctx)\n"),
)

# The first call sends everything and the later ones nothing: what the decoder has kept is used again.
_SENDS_ONCE = source(
    """
    def encode(frames, ctx):
        return b"" if ctx.params["point"] else raw(frames)
    """
)

# An encoder that cannot tell the calls apart by their parameters, only by what it remembers itself.
_SENDS_WHAT_IS_NEW = source(
    """
    sent = set()
    def encode(frames, ctx):
        data = raw(frames)
        if data in sent:
            return b""
        sent.add(data)
        return data
    """
)

_KEEPING = {
    "module-global": ("global kept\nkept = bitstream", "data = kept"),
    "builtins": ("import builtins; builtins.kept = bitstream", "import builtins; data = builtins.kept"),
    "default-argument": ("decode.__kwdefaults__ = {'kept': bitstream}", "data = decode.__kwdefaults__['kept']"),
    "torch-attribute": ("torch.kept = bitstream", "data = torch.kept"),
    "file": ("write('kept.bin', bitstream)", "data = read('kept.bin')"),
    "file-in-tmp": ("write('/tmp/@MARK@.bin', bitstream)", "data = read('/tmp/@MARK@.bin')"),
    "file-in-shared-memory": ("write('/dev/shm/@MARK@.bin', bitstream)", "data = read('/dev/shm/@MARK@.bin')"),
    "environment": ("os.environ['KEPT'] = bitstream[:9000].hex()", "data = bytes.fromhex(os.environ['KEPT'])"),
}


def _keeper(name: str, keep: str, find: str, encoder: str, **changes: object) -> Cheat:
    decoder = hide_and_seek("", "", "", f"if bitstream:\n{_in(keep)}\n    data = bitstream\nelse:\n{_in(find)}").decoder
    goal = "send the frames once, and nothing at the next call"
    options = {"mode": TWO_PROCESSES, **changes}
    return Cheat(name=name, goal=goal, encoder=encoder, decoder=decoder, **options)  # type: ignore[arg-type]


def _in(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


_BETWEEN_POINTS = tuple(_keeper(f"next-point-{name}", *both, _SENDS_ONCE, points=2) for name, both in _KEEPING.items())

_BETWEEN_CLIPS = (
    _keeper(
        "next-clip-module-global",
        *_KEEPING["module-global"],
        _SENDS_WHAT_IS_NEW,
        clips=("noise", "copy"),
        mode="one_process",
    ),
    _keeper(
        "next-clip-file",
        *_KEEPING["file"],
        _SENDS_WHAT_IS_NEW.replace(
            "sent = set()", "import builtins\nsent = builtins.__dict__.setdefault('sent', set())"
        ),
        clips=("noise", "copy"),
        mode="one_process",
    ),
)

CHEATS = (*_BETWEEN_SIDES, _IN_PLACE, *_BETWEEN_POINTS, *_BETWEEN_CLIPS)
