"""What a jail may send on its channel, and do to the memory that it shares with the service.

Nothing but the supervisor's own checks stops these, and they cannot be left off: the control is that the attack
reaches the supervisor.
"""

from __future__ import annotations

from tests.sandbox.battery.base import Attack, Outcome

_VIOLATION = frozenset({"contract_violation"})
# Where a filter refuses the very call, the refusal is an exception of the submission's.
_OR_REFUSED = _VIOLATION | {"exception"}
_LINGER_S = 0.05


def _sends(name: str, goal: str, code: str, expect: frozenset[str] = _VIOLATION, tries: int = 1) -> Attack:
    return Attack(
        name=name, group="protocol", goal=goal, code=code, expect=expect, control="delivered", wall_s=5.0, tries=tries
    )


def _packet(name: str, goal: str, expression: str, expect: frozenset[str] = _VIOLATION) -> Attack:
    code = f"""
    def attack(ctx):
        import json
        delivered()
        os.write(3, {expression})
        time.sleep(3)
    """
    return _sends(name, goal, code, expect)


def _answer(name: str, goal: str, fields: str, expect: frozenset[str] = _VIOLATION) -> Attack:
    return _packet(name, goal, f"json.dumps({fields}).encode()", expect)


_PACKETS = (
    _packet("packet-garbage", "have the service read bytes that are no message", "bytes(range(256))"),
    _packet("packet-huge", "have the service read a message of 150 kB", "b'{\"op\": \"' + b'x' * 150_000 + b'\"}'"),
    _packet("packet-nested", "exhaust the stack of the service's parser", "b'[' * 60_000"),
    _packet("packet-nested-maps", "exhaust the stack with maps", "b'{\"a\":' * 12_000"),
    _packet("packet-half", "have the service wait for the rest of a message", "b'{\"op\": \"done\", \"byt'"),
    _packet("packet-number", "have the service turn 60,000 digits into a number",
            "b'{\"op\": \"done\", \"bytes\": ' + b'9' * 60_000 + b'}'"),
    _packet("packet-infinite", "have the service calculate with infinity",
            "b'{\"op\": \"done\", \"bytes\": Infinity}'"),
    _packet("packet-overflow", "have the service calculate with infinity in disguise",
            "b'{\"op\": \"done\", \"bytes\": 1e999}'"),
    _packet("packet-list", "send a message of another kind", "b'[\"done\"]'"),
    _packet("packet-keys", "send the same key many times, the last one wrong",
            "b'{' + b'\"op\": \"done\",' * 4000 + b'\"op\": 3}'"),
    _answer("answer-other", "answer another question", "{'op': 'confined'}"),
    _answer("answer-unhashable", "answer with a list in place of a word", "{'op': ['done']}"),
    _answer("answer-broken", "claim that the jail could not be made", "{'op': 'broken', 'message': 'x'}"),
    _answer("size-negative", "claim a negative size", "{'op': 'done', 'bytes': -1}"),
    _answer("size-too-large", "have the service read past the output", "{'op': 'done', 'bytes': 1 << 40}"),
    _answer("size-boolean", "claim a size that is no number", "{'op': 'done', 'bytes': True}"),
    _answer("size-missing", "claim no size", "{'op': 'done'}"),
    _answer("told-nested", "have the service keep a deep tree of values",
            "{'op': 'done', 'bytes': 0, 'self_reported': [[[]]]}"),
    _answer("told-many", "have the service keep 3000 values",
            "{'op': 'done', 'bytes': 0, 'self_reported': {f'k{i}': i for i in range(3000)}}"),
    _answer("fault-of-service", "blame the service", "{'op': 'failed', 'error_type': 'worker_lost', 'message': 'x'}"),
    _answer("fault-unknown", "fail in a way that nobody knows", "{'op': 'failed', 'error_type': 'x', 'message': 'x'}"),
    _answer("fault-unhashable", "fail in a way that is no word", "{'op': 'failed', 'error_type': [], 'message': 'x'}"),
    _answer("fault-message", "give a message that is no text",
            "{'op': 'failed', 'error_type': 'exception', 'message': {'a': 1}}"),
)

_FIND = """
def output(flags=os.O_RDWR):
    for name in os.listdir("/proc/self/fd"):
        try:
            if "memfd:output" in os.readlink(f"/proc/self/fd/{name}"):
                return int(name)
        except OSError:
            continue
    raise OSError(errno.ENOENT, "no output")
"""

# The same on a memory file of one's own, without the seals.
_UNSEALED = """
def output():
    fd = os.memfd_create("own", 2)
    os.ftruncate(fd, 1 << 20)
    return fd
"""


_MANY = (
    _sends(
        "packets-empty",
        "send packets without any bytes",
        """
        def attack(ctx):
            delivered()
            for _ in range(20):
                socket.socket(fileno=os.dup(3)).send(b"")
            time.sleep(3)
        """,
        _OR_REFUSED,
    ),
    _sends(
        "packets-flood",
        "keep the service busy with messages",
        _FIND
        + """
def attack(ctx):
    delivered()
    for _ in range(100_000):
        os.write(3, b'{"op": "done", "bytes": 9, "x": "' + b"x" * 50_000 + b'"}')
""",
        _VIOLATION | {"done", "exception"},
    ),
    _sends(
        "answers-ahead",
        "answer all questions at import, so that no time is measured",
        """
        for _answer in (b'{"op": "loaded"}', b'{"op": "ready"}', b'{"op": "done", "bytes": 0}'):
            os.write(3, _answer)
        delivered()
        def attack(ctx):
            time.sleep(3)
        """,
        # Where each answer arrives just after its question, it is one: an empty bitstream, which is no gain.
        frozenset({"done", "contract_violation"}),
        tries=10,
    ),
    _sends(
        "answer-at-setup",
        "answer the last question before it is asked",
        """
        def setup(ctx):
            delivered()
            os.write(3, b'{"op": "ready"}')
            os.write(3, b'{"op": "done", "bytes": 0}')
            time.sleep(0.2)
        def attack(ctx):
            time.sleep(3)
        """,
        frozenset({"done", "contract_violation"}),
        tries=10,
    ),
    _sends(
        "done-twice",
        "say that the call is done, twice",
        _FIND
        + """
def attack(ctx):
    delivered()
    os.write(3, b'{"op": "done", "bytes": 9}')
    os.write(3, b'{"op": "done", "bytes": 99999999}')
    time.sleep(3)
""",
        frozenset({"done", "contract_violation"}),
    ),
    _sends(
        "messages-after-return",
        "go on talking from a thread after the answer",
        """
        def talk():
            while True:
                os.write(3, b'{"op": "failed", "error_type": "worker_lost"}')
        def attack(ctx):
            def start():
                time.sleep(0.05)
                talk()
            threading.Thread(target=start, daemon=True).start()
            return "delivered"
        """,
        frozenset({"done", "contract_violation"}),
    ),
    _sends(
        "descriptors-sent",
        "fill the service's table of descriptors",
        """
        def attack(ctx):
            import array
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=3)
            held = array.array("i", [os.dup(0) for _ in range(250)])
            delivered()
            for _ in range(20):
                channel.sendmsg([b'{"op": "done", "bytes": 0}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, held)])
            time.sleep(3)
        """,
        _OR_REFUSED,
    ),
    _sends(
        "channel-in-channel",
        "send the channel through itself, so that the kernel has to untangle it",
        """
        def attack(ctx):
            import array
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=3)
            delivered()
            channel.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [3, 3, 3]))])
            time.sleep(3)
        """,
        _OR_REFUSED,
    ),
    _sends(
        "credentials-sent",
        "send a claim to be another process",
        """
        def attack(ctx):
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=3)
            claim = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
            delivered()
            channel.sendmsg([b"x"], [(socket.SOL_SOCKET, 2, claim)])
            time.sleep(3)
        """,
        _OR_REFUSED,
    ),
    _sends("channel-closed", "close the channel and go on", """
        def attack(ctx):
            delivered()
            os.close(3)
            time.sleep(3)
        """),
    _sends("channel-replaced", "put something else in the channel's place", """
        def attack(ctx):
            delivered()
            os.dup2(0, 3)
            time.sleep(3)
        """),
    _sends("channel-shut", "shut the channel down and go on", """
        def attack(ctx):
            delivered()
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=3).shutdown(socket.SHUT_RDWR)
            time.sleep(3)
        """, _OR_REFUSED),
    _sends("channel-half-shut", "shut the channel for what the service sends", """
        def attack(ctx):
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=os.dup(3)).shutdown(socket.SHUT_RD)
            return "delivered"
        """, _OR_REFUSED | {"done"}),
    _sends("logs-closed", "close the pipes that the service reads", """
        def attack(ctx):
            delivered()
            os.close(1)
            os.close(2)
            return "delivered"
        """, frozenset({"done"})),
    _sends("channel-deaf", "never read what the service sends", """
        def attack(ctx):
            delivered()
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=os.dup(3))
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            return "delivered"
        """, frozenset({"done", "exception"})),
)

def _memory(name: str, goal: str, code: str) -> Attack:
    return Attack(
        name=name, group="protocol", goal=goal, code=_FIND + code, control_code=_UNSEALED + code
    )


_WORKING = (
    _FIND
    + """
def attack(ctx):
    fd, wire = output(), sys.modules["app.sandbox.wire"]
    def work(end):
        while time.monotonic() < end:
            os.pwrite(fd, time.monotonic_ns().to_bytes(8, "little"), 8)
    def send(channel, message, descriptors=()):
        os.pwrite(fd, time.monotonic_ns().to_bytes(8, "little"), 0)
        work(time.monotonic() + WAIT)
        plain(channel, message, descriptors)
        work(time.monotonic() + 3)
    plain, wire.send = wire.send, send
    return bytes(16)
"""
)


def _worked_on(outcome: Outcome, control: bool) -> str | None:
    if outcome.error_type != "done" or len(outcome.bitstream) != 16:
        return None
    said, last = (int.from_bytes(outcome.bitstream[start : start + 8], "little") / 1e9 for start in (0, 8))
    after_s = last - said
    if said == 0 or after_s <= (0 if control else _LINGER_S):
        return None
    return f"worked on for {after_s:.6f} s after it was done"


_SHARED = (
    _memory("output-cut", "cut the output, so that the service faults when it reads", """
def attack(ctx):
    os.ftruncate(output(), 0)
    return "cut"
"""),
    _memory("output-grown", "make the output larger than was agreed", """
def attack(ctx):
    os.ftruncate(output(), 1 << 24)
    return "grown"
"""),
    _memory("output-sealed", "keep the service from writing to its own memory", """
def attack(ctx):
    fcntl.fcntl(output(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    return "sealed"
"""),
    _memory("output-overrun", "write behind the end of the output", """
def attack(ctx):
    os.pwrite(output(), b"x", 1 << 30)
    return "overrun"
"""),
    Attack(
        name="input-rewritten",
        group="protocol",
        goal="change the frames that the service compares with",
        code="""
        def attack(ctx):
            for line in open("/proc/self/maps"):
                if "memfd:" in line and "output" not in line:
                    fd = os.open("/proc/self/map_files/" + line.split()[0], os.O_RDWR)
                    os.pwrite(fd, b"x", 0)
                    return "changed"
            raise OSError(errno.ENOENT, "no input")
        """,
        control_code="""
        def attack(ctx):
            fd = os.memfd_create("own")
            os.ftruncate(fd, 4096)
            held = mmap.mmap(fd, 4096)
            os.close(fd)
            for line in open("/proc/self/maps"):
                if "memfd:own" in line:
                    fd = os.open("/proc/self/map_files/" + line.split()[0], os.O_RDWR)
                    os.pwrite(fd, b"x", 0)
                    return "changed"
        """,
    ),
    Attack(
        name="work-after-done",
        group="protocol",
        goal="go on working on the output when the clock has been stopped",
        code=_WORKING.replace("WAIT", "0"),
        # The kill comes so soon that only work before the answer is sure to be seen.
        control_code=_WORKING.replace("WAIT", "0.02"),
        judge=_worked_on,
    ),
    _sends(
        "output-hole",
        "take pages out of the output while the service may read them",
        _FIND
        + """
def attack(ctx):
    fd = output()
    def punch():
        while True:
            _libc.fallocate(fd, 3, ctypes.c_long(8192), ctypes.c_long(4096))
    threading.Thread(target=punch, daemon=True).start()
    return "delivered" + "x" * 20_000
""",
        frozenset({"done", "exception"}),
    ),
)

ATTACKS = (*_PACKETS, *_MANY, *_SHARED)
