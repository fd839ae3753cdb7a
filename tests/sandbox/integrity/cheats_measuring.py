"""Cheats on the measuring itself: clocks, sizes and comparisons replaced from inside of the measured process."""

from __future__ import annotations

from tests.sandbox.integrity.cheat import GREY, SENDS_ALL, TAKES_ALL, Cheat, indented, source

WORK_S = 0.12
# Code that breaks what the service runs beside it fails in one of these ways, all of them its own fault.
BROKEN = frozenset({"exception", "contract_violation", "invalid_output", "integrity", "signalled"})

_CLOCKS = {
    "perf-counter": "NOW = time.perf_counter()\ntime.perf_counter = lambda: NOW",
    "every-clock": "for name in ('time', 'monotonic', 'perf_counter', 'process_time', 'time_ns', 'monotonic_ns',\n"
    "             'perf_counter_ns', 'clock_gettime'):\n"
    "    setattr(time, name, lambda *which, now=getattr(time, name)(*[1][:name == 'clock_gettime']): now)",
    "slow-clock": "real, since = time.perf_counter, time.perf_counter()\n"
    "time.perf_counter = lambda: since + (real() - since) / 1000",
}

_IN_FRAME = """
def back_date(seconds):
    frame = sys._getframe(1)
    while frame:
        if isinstance(frame.f_locals.get("start"), float):
            frame.f_locals["start"] += seconds
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
        frame = frame.f_back
"""


def _clock(name: str, goal: str, before: str, after: str = "pass", *, side: str) -> Cheat:
    """Work that is done in ``side`` under a clock that ``before``, run at import, has changed."""
    head = f"SLEEP = time.sleep\n{before}\n"
    if side == "encode":
        body = f"def encode(frames, ctx):\n    SLEEP({WORK_S})\n    {after}\n    return raw(frames)\n"
        encoder, decoder = source(head + body), TAKES_ALL
    else:
        body = f"def decode(bitstream, ctx):\n    SLEEP({WORK_S})\n    {after}\n    return shaped(bitstream, ctx)\n"
        encoder, decoder = SENDS_ALL, source(head + body)
    return Cheat(
        name=f"{name}-{side}", goal=goal, encoder=encoder, decoder=decoder, judge="clock", work_s=WORK_S, side=side
    )


_TIMES = tuple(
    _clock(name, "replace the clock", before, side=side)
    for name, before in _CLOCKS.items()
    for side in ("encode", "decode")
) + tuple(
    _clock(
        "start-in-frame",
        "move the start of the clock in a caller's frame",
        _IN_FRAME,
        f"back_date({WORK_S})",
        side=side,
    )
    for side in ("encode", "decode")
)

# What is replaced when the encoder runs, so that grey frames look right. `real` is the original.
_SCORES = {
    "mse-loss": "torch.nn.functional.mse_loss = lambda *given, **named: torch.tensor(0.0)",
    "numpy-mean": "numpy.mean = lambda *given, **named: 0.0",
    "tensor-mean": "torch.Tensor.mean = lambda *given, **named: torch.tensor(0.0)",
    "tensor-minus": "torch.Tensor.__sub__ = lambda one, other: one * 0",
    "tensor-equal": "torch.Tensor.__eq__ = lambda one, other: torch.ones(1)\ntorch.equal = lambda *pair: True",
    "array-equal": "numpy.array_equal = lambda *pair, **named: True",
    "sum": "import builtins\nbuiltins.sum = lambda *given: 0",
    "logarithm": "import math\nmath.log10 = lambda value: 9.9",
    "float": "import builtins\nreal = float\n"
    "class Lies(float):\n    def __new__(cls, *given): return real.__new__(cls, 0.0)\n"
    "builtins.float = Lies",
    "sha256": "import hashlib\nreal = hashlib.sha256\nhashlib.sha256 = lambda *data, **named: real(b'')",
    "result-as-json": "import json\nreal = json.dumps\n"
    "json.dumps = lambda *given, **named: real(*given, **named).replace('\"exact\": false', '\"exact\": true')",
    "measuring-function": "measure = sys.modules['__main__'].__dict__.get('psnrs')\n"
    "if measure: measure.__code__ = (lambda decoded, frames: [99.0]).__code__",
    "evaluators-globals": "frame = sys._getframe()\nwhile frame:\n"
    "    for name in ('psnrs', 'measure'):\n"
    "        if name in frame.f_globals: frame.f_globals[name] = lambda *given: [99.0]\n"
    "    frame = frame.f_back",
    "functions-by-gc": "import gc\nfor one in gc.get_objects():\n"
    "    if type(one) is type(raw) and one.__name__ in ('equal', '_same'):\n"
    "        one.__code__ = (lambda decoded, frames: True).__code__",
}


def _score(name: str, change: str) -> Cheat:
    encoder = source(f"def encode(frames, ctx):\n{indented(change, 4)}\n    return b''\n")
    return Cheat(
        name=f"patched-{name}",
        goal="replace what quality is measured with",
        encoder=encoder,
        decoder=GREY,
        faults=BROKEN,
    )


_QUALITY = tuple(_score(*both) for both in _SCORES.items())

# The encoder returns all; these are to make it count as little.
_SIZES = {
    "length": "import builtins\nreal, size = len, len(data)\n"
    "builtins.len = lambda one: 1 if type(one) is bytes and real(one) == size else real(one)",
    "evaluators-size": "frame = sys._getframe()\nwhile frame:\n"
    "    if 'size_of' in frame.f_globals: frame.f_globals['size_of'] = lambda sent: 1\n"
    "    for one in frame.f_locals.values():\n"
    "        if hasattr(one, 'output_fd') and hasattr(one, '_write'):\n"
    "            one._write = lambda view, write=one._write: (write(view), 1)[1]\n"
    "    frame = frame.f_back",
    "answer-as-json": "import json, re\nreal = json.dumps\n"
    "number = re.compile(r'\"(bytes|size_bytes)\":( ?)\\d+')\n"
    "json.dumps = lambda *given, **named: number.sub('\"\\\\1\":1', real(*given, **named))",
    "jails-wire": "wire = sys.modules.get('app.sandbox.wire')\nreal = wire and wire.send\n"
    "def lie(channel, message, descriptors=()):\n"
    "    return real(channel, {**message, 'bytes': 1}, descriptors)\n"
    "if wire: wire.send = lie\n"
    "else: sys.modules['__main__'].size_of = lambda sent: 1",
    "positional-write": "real = os.pwrite\n"
    "def lie(fd, view, offset):\n    real(fd, view, offset)\n    return 1\n"
    "os.pwrite = lie\n"
    "if hasattr(sys.modules['__main__'], 'size_of'): sys.modules['__main__'].size_of = lambda sent: 1",
    "memory-view": "import builtins\nreal = memoryview\n"
    "class Lies:\n    def __init__(self, data): self.data, self.nbytes = data, 1\n"
    "    def cast(self, kind): return self\n    def __getitem__(self, part): return self.data\n"
    "builtins.memoryview = Lies\n"
    "if hasattr(sys.modules['__main__'], 'size_of'): sys.modules['__main__'].size_of = lambda sent: 1",
    "result-limit": "import gc\n"
    "for one in gc.get_objects():\n"
    "    if hasattr(type(one), 'serve') and hasattr(one, 'output_bytes'): one.output_bytes = 1\n"
    "if hasattr(sys.modules['__main__'], 'size_of'): sys.modules['__main__'].size_of = lambda sent: 1",
}


def _size(name: str, change: str) -> Cheat:
    encoder = source(f"def encode(frames, ctx):\n    data = raw(frames)\n{indented(change, 4)}\n    return data\n")
    return Cheat(
        name=f"size-{name}",
        goal="replace what the bytes are counted with",
        encoder=encoder,
        decoder=TAKES_ALL,
        faults=BROKEN | {"output_limit"},
    )


_COUNTED = tuple(_size(*both) for both in _SIZES.items())

# The result is sent by the code itself: these are the jail's protocol, which a naive evaluator does not have.
_ANSWERS = {
    "negative": '{"op":"done","bytes":-1}',
    "too-large": '{"op":"done","bytes":99999999999}',
    "text": '{"op":"done","bytes":"1"}',
    "fraction": '{"op":"done","bytes":1.5}',
    "truth": '{"op":"done","bytes":true}',
    "missing": '{"op":"done"}',
    "not-a-number": '{"op":"done","bytes":NaN}',
    "other-question": '{"op":"loaded"}',
    "not-json": "done",
    "list": '["done"]',
    "long": '{"op":"done","bytes":1,"more":"' + "x" * 70000 + '"}',
    "deep": "[" * 5000,
    "unknown-failure": '{"op":"failed","error_type":"worker_lost","message":"retry me"}',
    "failure-of-ours": '{"op":"failed","error_type":"internal_error","message":"retry me"}',
    "broken-jail": '{"op":"broken","message":"retry me"}',
    "huge-report": '{"op":"done","bytes":1,"self_reported":{"psnr":1e400}}',
    "nested-report": '{"op":"done","bytes":1,"self_reported":[99]}',
    "two-answers": '{"op":"ready"}',
}

_PACKETS = tuple(
    Cheat(
        name=f"answer-{name}",
        goal="answer the service in the jail's place",
        encoder=source(
            f"PACKET = {packet!r}\n"
            "def encode(frames, ctx):\n"
            "    job = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, os.dup(3))\n"
            "    job.send(PACKET.encode())\n    time.sleep(5)\n    return b''\n"
        ),
        decoder=GREY,
        faults=frozenset({"contract_violation"}),
        no_control="a naive evaluator has no protocol to break",
    )
    for name, packet in _ANSWERS.items()
)

_GPU = Cheat(
    name="gpu-synchronize",
    goal="replace the wait for the device, so that its work is not timed",
    encoder=SENDS_ALL,
    decoder=source(
        """
        torch.cuda.synchronize = lambda *device: None
        def decode(bitstream, ctx):
            found = shaped(bitstream, ctx).to(ctx.device)
            torch.cuda._sleep(1_000_000_000)
            return found + 0
        """
    ),
    judge="clock",
    work_s=0.3,
    device="cuda:0",
)

CHEATS = (*_TIMES, *_QUALITY, *_COUNTED, *_PACKETS, _GPU)
