"""Frames that are not what they look like, come later than they are timed, or carry a pickle."""

from __future__ import annotations

import textwrap

from tests.sandbox.integrity.cheat import SENDS_ALL, SENDS_NOTHING, TWO_PROCESSES, Cheat, source
from tests.sandbox.integrity.cheats_measuring import WORK_S


def _looks(name: str, goal: str, body: str, *faults: str) -> Cheat:
    """A decoder that knows nothing and returns ``found``, made of grey frames ``x``."""
    decoder = source(
        f"{textwrap.dedent(body)}\ndef decode(bitstream, ctx):\n    x = shaped(b'', ctx)\n    return make(x)\n"
    )
    return Cheat(name=f"output-{name}", goal=goal, encoder=SENDS_NOTHING, decoder=decoder, faults=frozenset(faults))


_EQUAL = (
    _looks(
        "equal-tensor",
        "a tensor that equals every other",
        """
        class Same(torch.Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                if getattr(function, "__name__", "") in ("__eq__", "eq", "equal"):
                    return torch.ones(1)
                return super().__torch_function__(function, types, args, kwargs or {})
        make = lambda x: x.as_subclass(Same)
        """,
    ),
    _looks(
        "equal-array",
        "an array that equals every other",
        """
        class Same(numpy.ndarray):
            def __eq__(self, other): return numpy.ones(1)
        make = lambda x: x.numpy().view(Same)
        """,
    ),
    _looks(
        "no-difference",
        "a tensor from which every difference is nought",
        """
        class Same(torch.Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                found = super().__torch_function__(function, types, args, kwargs or {})
                return found * 0 if getattr(function, "__name__", "") in ("sub", "__sub__", "rsub") else found
        make = lambda x: x.as_subclass(Same)
        """,
    ),
    _looks(
        "equal-object",
        "an object that equals everything",
        """
        class Same:
            def __init__(self, x): self.x = x
            def __len__(self): return len(self.x)
            def __getitem__(self, part): return self.x[part]
            def __eq__(self, other): return self
            def all(self): return True
        make = Same
        """,
        "invalid_output",
    ),
    _looks(
        "lying-tensor",
        "a tensor whose copy, shape and type are whatever is asked for",
        """
        class Liar(torch.Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                name = getattr(function, "__name__", "")
                if name in ("__eq__", "eq", "equal"):
                    return torch.ones(1)
                if name in ("detach", "to", "resolve_conj", "cpu", "float"):
                    return args[0]
                return super().__torch_function__(function, types, args, kwargs or {})
        make = lambda x: x[:1, :, :1, :1].clone().as_subclass(Liar)
        """,
        "invalid_output",
    ),
    _looks(
        "lying-shape",
        "an array of one sample that says it is all of them",
        """
        class Liar(numpy.ndarray):
            shape = property(lambda self: SHAPE)
            def __eq__(self, other): return numpy.ones(1)
        def make(x):
            global SHAPE
            SHAPE = tuple(x.shape)
            return numpy.full((1,), 128, numpy.uint8).view(Liar)
        """,
        "invalid_output",
    ),
    _looks(
        "not-a-number", "frames that are not numbers", "make = lambda x: x.float() * float('nan')", "invalid_output"
    ),
    _looks("no-frames", "no frame at all", "make = lambda x: x[:0]", "invalid_output"),
    _looks("no-columns", "frames of no width", "make = lambda x: x[..., :0]", "invalid_output"),
    _looks("no-frames-as-array", "no frame at all, as an array", "make = lambda x: x.numpy()[:0]", "invalid_output"),
)


def _late(name: str, goal: str, body: str, *faults: str, work_s: float = WORK_S) -> Cheat:
    """A decoder that has the frames ``x`` and returns what gets them only after ``work()``."""
    decoder = source(
        f"def work():\n    time.sleep({work_s})\n{textwrap.dedent(body)}\n"
        "def decode(bitstream, ctx):\n    x = shaped(bitstream, ctx)\n    return make(x)\n"
    )
    return Cheat(
        name=f"late-{name}",
        goal=goal,
        encoder=SENDS_ALL,
        decoder=decoder,
        judge="clock",
        work_s=work_s,
        faults=frozenset(faults),
    )


_LATE = (
    _late(
        "object",
        "an object that computes when it is looked at",
        """
        class Later:
            def __init__(self, x): self.x, self.done = x, False
            def now(self):
                self.done or work()
                self.done = True
                return self.x
            def __len__(self): return len(self.x)
            def __getitem__(self, part): return self.now()[part]
            def __eq__(self, other): return self.now() == other
            def __array__(self, *given, **named): return self.now().numpy()
        make = Later
        """,
        "invalid_output",
    ),
    _late(
        "tensor",
        "a tensor that computes at the first operation",
        """
        class Later(torch.Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                global worked
                if not worked:
                    worked = True
                    work()
                return super().__torch_function__(function, types, args, kwargs or {})
        worked = False
        make = lambda x: x.as_subclass(Later)
        """,
    ),
    _late(
        "thread",
        "a buffer that a thread fills after the return",
        """
        def make(x):
            room = torch.zeros_like(x)
            def fill():
                work()
                room.copy_(x)
            threading.Thread(target=fill, daemon=True).start()
            return room
        """,
        work_s=0.03,
    ),
    _late(
        "thread-after-done",
        "say that the output is complete, and fill the shared result while the service reads it",
        """
        def make(x):
            room = torch.zeros_like(x)
            def fill():
                work()
                room.copy_(x)
            threading.Thread(target=fill, daemon=True).start()
            try:
                socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, os.dup(3)).send(b'{"op":"done"}')
            except OSError:
                return room
            import mmap
            for fd in range(4, 64):
                try:
                    memory = mmap.mmap(fd, x.numel())
                except (OSError, ValueError):
                    continue
                work()
                memory[:] = x.numpy().tobytes()
            return room
        """,
        "contract_violation",
        work_s=0.03,
    ),
)

_PICKLED = {
    "pickle": ("import pickle\nreturn pickle.dumps(Opens())", "import pickle\ndata = pickle.loads(bitstream)"),
    "torch-load": (
        "import io\nout = io.BytesIO()\ntorch.save(Opens(), out, _use_new_zipfile_serialization=False)\n"
        "return out.getvalue()",
        "import io\ndata = torch.load(io.BytesIO(bitstream), weights_only=False)",
    ),
    "numpy-load": (
        "import io\nout = io.BytesIO()\nnumpy.save(out, numpy.array([Opens()], object), allow_pickle=True)\n"
        "return out.getvalue()",
        "import io\ndata = numpy.load(io.BytesIO(bitstream), allow_pickle=True)[0]",
    ),
    "source-text": ("return b'[read(one) for one in PATHS if os.path.exists(one)][0]'", "data = eval(bitstream)"),
}

_OPENS = """
PATHS = ["frames.npy", os.path.join(os.path.dirname(@CLIP@), "frames.npy"), @CLIP@]
class Opens:
    def __reduce__(self):
        code = f"[open(one, 'rb').read() for one in {PATHS!r} if __import__('os').path.exists(one)][0]"
        return eval, (code,)
"""


def _pickled(name: str, write: str, load: str) -> Cheat:
    encoder = source(f"{_OPENS}\ndef encode(frames, ctx):\n    {_body(write)}\n")
    decoder = source(
        f"{_OPENS}\ndef load(bitstream):\n    {_body(load)}\n    return data[-SIZE:]\n"
        "def decode(bitstream, ctx):\n"
        "    global SIZE\n    SIZE = shaped(b'', ctx).numel()\n"
        "    return shaped(attempt(lambda: load(bitstream), b''), ctx)\n"
    )
    goal = "send a pickle that opens the clip where it is loaded"
    return Cheat(name=f"pickle-{name}", goal=goal, encoder=encoder, decoder=decoder, mode=TWO_PROCESSES)


def _body(text: str) -> str:
    return text.replace("\n", "\n    ")


_PICKLES = tuple(_pickled(name, *both) for name, both in _PICKLED.items())

CHEATS = (*_EQUAL, *_LATE, *_PICKLES)
