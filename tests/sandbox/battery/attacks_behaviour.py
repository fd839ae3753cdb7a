"""Exceptions, crashes and tricks of the language: each must end as what it is, and as text.

The control is that the trick is played, since these are stopped by how the service reads a call's end.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.sandbox.battery.base import Attack, Outcome
from tests.sandbox.jails import LIMITS

_EXCEPTION = frozenset({"exception"})
_SIGNALLED = frozenset({"signalled"})
_MAX_MESSAGE_CHARS = 2200


def _ends(name: str, goal: str, code: str, expect: frozenset[str] = _EXCEPTION, wall_s: float = 5.0) -> Attack:
    return Attack(
        name=name, group="behaviour", goal=goal, code=code, expect=expect, control="delivered", wall_s=wall_s
    )


def _told(*expect: str) -> Callable[[Outcome, bool], str | None]:
    """Bounded text that can be written anywhere, under one of these types."""

    def judge(outcome: Outcome, control: bool) -> str | None:
        if control:
            return "delivered" if "delivered" in outcome.log + outcome.text else None
        if outcome.error_type not in expect:
            return f"ended as {outcome.error_type}: {outcome.message[:150]}"
        if len(outcome.message) > _MAX_MESSAGE_CHARS or len(outcome.log) > LIMITS.log_bytes + 100:
            return f"a message of {len(outcome.message)} characters, a log of {len(outcome.log)}"
        try:
            json.dumps([outcome.message, outcome.log], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            return f"text that cannot be written: {error}"
        return None

    return judge


def _text(name: str, goal: str, code: str, *expect: str) -> Attack:
    return Attack(name=name, group="behaviour", goal=goal, code=code, judge=_told(*(expect or ("exception",))))


_TEXTS = (
    _text("message-escapes", "have the reader's terminal do something", r"""
        def attack(ctx):
            sys.stdout.write("\x1b[2J\x1b]0;owned\x07\x9b31m\x00\r\n")
            delivered()
            raise ValueError("\x1b[2J\x1b]0;owned\x07\x9b31m\x00\x08\r")
        """),
    _text("message-surrogates", "have the service hold text that cannot be written", r"""
        def attack(ctx):
            sys.stderr.write("\ud800\n")
            delivered()
            raise ValueError("\ud800\udfff \u202e \ufffe")
        """),
    _text("log-bytes", "print bytes that are no text", """
        def attack(ctx):
            os.write(1, bytes(range(256)))
            delivered()
            raise ValueError("printed")
        """),
    _text("message-giant", "have the service keep a message of 20 MB", """
        def attack(ctx):
            delivered()
            raise ValueError("x" * (20 << 20))
        """),
    _text("type-name-giant", "have the service keep a type's name of 2 MB", """
        def attack(ctx):
            delivered()
            raise type("X" * (2 << 20), (Exception,), {})("x")
        """),
    _text("traceback-long", "have the service keep a traceback of 50,000 lines", """
        def deeper(depth):
            if depth == 0:
                raise ValueError("x")
            deeper(depth - 1)
        def attack(ctx):
            delivered()
            sys.setrecursionlimit(60_000)
            deeper(20_000)
        """),
    _text("causes-long", "have the service walk along 20,000 causes", """
        def attack(ctx):
            delivered()
            last = None
            for number in range(20_000):
                error = ValueError(str(number))
                error.__cause__, last = last, error
            raise last
        """),
    _text("causes-circular", "have the service walk in a circle", """
        def attack(ctx):
            delivered()
            one, two = ValueError("one"), ValueError("two")
            one.__cause__, two.__cause__ = two, one
            raise one
        """),
    _text("group-deep", "have the service walk down a deep group", """
        def attack(ctx):
            delivered()
            error = ValueError("x")
            for _ in range(3000):
                error = ExceptionGroup("x", [error])
            raise error
        """),
    _text("notes-many", "have the service keep 100,000 notes", """
        def attack(ctx):
            delivered()
            error = ValueError("x")
            error.__notes__ = ["note"] * 100_000
            raise error
        """),
    _text("hostile-text", "fail when the service asks for the text", """
        class Hostile(Exception):
            def __str__(self):
                raise RuntimeError("no")
            __repr__ = __str__
        def attack(ctx):
            delivered()
            raise Hostile
        """),
    _text("hostile-class", "claim to be another class", """
        class Hostile(Exception):
            __class__ = property(lambda self: MemoryError)
            __cause__ = property(lambda self: 3)
            __traceback__ = property(lambda self: 3)
            def __getattribute__(self, name):
                raise SystemExit(name)
        def attack(ctx):
            delivered()
            raise Hostile
        """),
    _text("hostile-meta", "fail when the service asks for the type's name", """
        class Meta(type):
            def __getattribute__(cls, name):
                raise SystemExit(name)
        class Hostile(Exception, metaclass=Meta):
            pass
        def attack(ctx):
            delivered()
            raise Hostile
        """),
    _text("syntax-forged", "have the service show a file of the host as the line in error", """
        def attack(ctx):
            delivered()
            raise SyntaxError("x", ("/etc/passwd", 1, 1, None))
        """),
)

_LEAVING = (
    _ends("raise-system-exit", "end the interpreter", "def attack(ctx):\n    delivered()\n    sys.exit(0)\n"),
    _ends("raise-interrupt", "look like the operator's Control-C",
          "def attack(ctx):\n    delivered()\n    raise KeyboardInterrupt\n"),
    _ends("raise-base", "raise what nobody catches",
          "def attack(ctx):\n    delivered()\n    raise type('Odd', (BaseException,), {})\n"),
    _ends("raise-exit", "raise GeneratorExit", "def attack(ctx):\n    delivered()\n    raise GeneratorExit\n"),
    _ends("leave-quietly", "end the process with success",
          "def attack(ctx):\n    delivered()\n    os._exit(0)\n", frozenset({"contract_violation"})),
    _ends("leave-loudly", "end the process as if the jail were broken",
          "def attack(ctx):\n    delivered()\n    os._exit(71)\n", frozenset({"contract_violation"})),
    _ends("leave-thread", "end the main thread alone, so that the process has no leader", """
        def attack(ctx):
            delivered()
            threading.Thread(target=time.sleep, args=(3,)).start()
            syscall(60, 0)
        """, frozenset({"contract_violation", "wall_time_limit", "exception"}), 1.5),
    _ends("abort", "crash", "def attack(ctx):\n    delivered()\n    os.abort()\n", _SIGNALLED),
    _ends("segfault", "read at address 0", "def attack(ctx):\n    delivered()\n    ctypes.string_at(0)\n", _SIGNALLED),
    _ends("illegal-instruction", "run what is no instruction",
          "def attack(ctx):\n    delivered()\n    machine(bytes.fromhex('0f0b'))()\n", _SIGNALLED),
    _ends("kill-oneself", "look as if the kernel had killed for want of memory",
          "def attack(ctx):\n    delivered()\n    os.kill(os.getpid(), 9)\n    time.sleep(3)\n", _SIGNALLED),
    _ends("real-time-signal", "end by a signal that has no name",
          "def attack(ctx):\n    delivered()\n    os.kill(os.getpid(), 40)\n    time.sleep(3)\n", _SIGNALLED),
    _ends("stack-overflow", "overflow the stack", """
        def attack(ctx):
            delivered()
            sys.setrecursionlimit(10_000_000)
            nested = []
            for _ in range(2_000_000):
                nested = [nested]
            repr(nested)
        """, _SIGNALLED | _EXCEPTION | {"memory_limit"}),
    _ends("recursion", "call oneself for ever", """
        def attack(ctx):
            delivered()
            attack(ctx)
        """),
)

_TRICKS = (
    _ends("trace-hook", "change what our code does by a hook on every line", """
        def attack(ctx):
            delivered()
            def hook(frame, event, argument):
                if "answer" in frame.f_locals:
                    frame.f_locals["answer"]["bytes"] = 1 << 40
                raise SystemExit
            sys.settrace(hook)
            for frame in (sys._getframe(depth) for depth in range(4)):
                frame.f_trace = hook
            return "delivered"
        """, frozenset({"done", "exception", "contract_violation"})),
    _ends("streams-replaced", "fail when our code writes out what was printed", """
        class Stream:
            def write(self, text): raise SystemExit
            flush = close = fileno = write
        def attack(ctx):
            delivered()
            sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = Stream()
            return "delivered"
        """, frozenset({"done"})),
    Attack(
        name="stream-hanging",
        group="behaviour",
        goal="never let our code write out what was printed",
        code="""
        class Stream:
            def flush(self): time.sleep(2.5)
        def attack(ctx):
            sys.stdout = Stream()
            return "hung"
        """,
        expect=frozenset({"wall_time_limit"}),
        wall_s=1.0,
    ),
    _ends("our-code-replaced", "replace the functions by which our code answers", """
        def attack(ctx):
            import json
            delivered()
            json.dumps = lambda *_, **__: '{"op": "failed", "error_type": "worker_lost", "message": "x"}'
            return "delivered"
        """, frozenset({"contract_violation"})),
    _ends("odd-result", "return something that lies about its size", """
        class Odd(bytes):
            def __len__(self): return 1 << 40
            def __buffer__(self, flags): raise SystemExit
        _plain = attack = None
        def attack(ctx):
            delivered()
            return Odd(b"delivered")
        """, frozenset({"done", "invalid_output", "exception"})),
    Attack(
        name="odd-frames",
        group="behaviour",
        goal="return frames that change after they were checked",
        code="""
        def attack(ctx):
            delivered()
            return "delivered"
        def _later():
            import torch
            global decode
            plain = decode
            class Odd(torch.Tensor):
                @property
                def shape(self): return torch.Size([1 << 30] * 4)
            decode = lambda bitstream, ctx: plain(bitstream, ctx).as_subclass(Odd)
        def setup(ctx): _later()
        """,
        expect=frozenset({"done", "invalid_output", "exception", "memory_limit"}),
        control="delivered",
        side="decode",
    ),
)

ATTACKS = (*_TEXTS, *_LEAVING, *_TRICKS)
