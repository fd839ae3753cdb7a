"""Bits smuggled beside the bitstream, and sizes and qualities that a submission reports about itself."""

from __future__ import annotations

from tests.sandbox.integrity.cheat import FLICKER, SENDS_ALL, TAKES_ALL, TWO_PROCESSES, Cheat, hide_and_seek, source

_BESIDE = (
    hide_and_seek("params", "write into the rate point", "ctx.params['kept'] = data", "data = ctx.params['kept']"),
    hide_and_seek("context", "write into ctx", "ctx.kept = data", "data = ctx.kept"),
    hide_and_seek("context-assets", "write into ctx.assets", "ctx.assets['kept'] = data", "data = ctx.assets['kept']"),
    hide_and_seek(
        "context-clip",
        "write into ctx.clip",
        "object.__setattr__(ctx.clip, 'kept', data)",
        "data = ctx.clip.kept",
    ),
    hide_and_seek(
        "printed",
        "print the frames, for the decoder to read in the log",
        "print('@MARK@', data.hex(), flush=True)",
        "data = bytes.fromhex(read('output.log').decode(errors='replace').partition('@MARK@ ')[2].split()[0])",
        mode=TWO_PROCESSES,
    ),
    hide_and_seek(
        "printed-to-descriptors",
        "write the frames to 0, 1 and 2, and read them there",
        "for fd in (0, 1, 2):\n    attempt(lambda: os.write(fd, b'@MARK@ ' + data[:2000].hex().encode() + b' '))",
        """
        data = b""
        for fd in (0, 1, 2):
            again = attempt(lambda: os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK), fd)
            found = attempt(lambda: os.read(again, 1 << 16), b"")
            if b"@MARK@ " in found:
                data = bytes.fromhex(found.partition(b"@MARK@ ")[2].split()[0].decode())
        """,
        mode=TWO_PROCESSES,
    ),
)

_RAISED = Cheat(
    name="raised",
    goal="raise an exception that carries the frames, for the decoder to read in a log",
    encoder=source("def encode(frames, ctx):\n    raise ValueError(raw(frames).hex())\n"),
    decoder=source(
        """
        def decode(bitstream, ctx):
            return shaped(attempt(lambda: bytes.fromhex(read("errors.log").decode()), b""), ctx)
        """
    ),
    mode=TWO_PROCESSES,
    faults=frozenset({"exception"}),
)

_EXIT_CODE = Cheat(
    name="exit-code",
    goal="end with an exit code that tells four bits",
    encoder=source("def encode(frames, ctx):\n    sys.stderr.flush()\n    os._exit(raw(frames)[0] & 15)\n"),
    decoder=source("def decode(bitstream, ctx):\n    return shaped(b'', ctx)\n"),
    mode=TWO_PROCESSES,
    judge="bits",
    clips=FLICKER,
    faults=frozenset({"contract_violation"}),
    no_control="no evaluator passes an exit code on to the decoder",
)


def _returned(name: str, goal: str, sent: str, taken: str, *faults: str) -> Cheat:
    """``sent`` is what the encoder returns for ``data``, ``taken`` how the decoder gets the frames out of it."""
    encoder = source(
        "class Bytes(bytes): pass\nclass Text(str): pass\n"
        "class Short(bytearray):\n    def __len__(self): return 3\n"
        "class Sized:\n    def __init__(self, data): self.data = data\n    def __len__(self): return 3\n"
        "    def __bytes__(self): return self.data\n"
        "def keeping(one, data):\n    one.kept = data\n    return one\n"
        f"def encode(frames, ctx):\n    data = raw(frames)\n    return {sent}\n"
    )
    decoder = source(f"def decode(bitstream, ctx):\n    return shaped(attempt(lambda: {taken}, b''), ctx)\n")
    return Cheat(name=f"returned-{name}", goal=goal, encoder=encoder, decoder=decoder, faults=frozenset(faults))


_REFUSED = "invalid_output"
_ROW = "numpy.frombuffer(data, numpy.uint8)[None]"
_RETURNED = (
    _returned("attribute", "hide them in an attribute of the bytes", "keeping(Bytes(b'x'), data)", "bitstream.kept"),
    _returned("short-length", "bytes that say that they are three", "Short(data)", "bytes(memoryview(bitstream))"),
    _returned("sized-object", "an object that has a length", "Sized(data)", "bytes(bitstream)", _REFUSED),
    _returned("part-of-a-buffer", "a view on one byte of a buffer", "memoryview(data)[:1]", "bitstream.obj"),
    _returned("strided-view", "every 30000th byte", "memoryview(data)[::30000]", "bitstream.obj", _REFUSED),
    _returned("text", "a string with an attribute", "keeping(Text('x'), data)", "bitstream.kept", _REFUSED),
    _returned("tuple", "the frames as an extra", "(b'', data)", "bitstream[1]", _REFUSED),
    _returned("list", "a list of one", "[data]", "bitstream[0]", _REFUSED),
    _returned("row", "an array whose length is its rows", _ROW, "numpy.asarray(bitstream).tobytes()"),
    _returned("tensor", "a tensor of one row", "frames.reshape(1, -1)", "bitstream.numpy().tobytes()", _REFUSED),
    _returned("large-item", "an array of one item", "numpy.frombuffer(data, f'V{len(data)}')", "bytes(bitstream)"),
    _returned("generator", "a generator in a list", "[(part for part in (data,))]", "next(bitstream[0])", _REFUSED),
    _returned("function", "a closure in a list", "[lambda: data]", "bitstream[0]()", _REFUSED),
    _returned(
        "number",
        "one large number in a list",
        "[int.from_bytes(data, 'big')]",
        "bitstream[0].to_bytes(shaped(b'', ctx).numel(), 'big')",
        _REFUSED,
    ),
    _returned(
        "claims",
        "a dict that claims a size of one byte and a perfect quality",
        "{'data': data, 'compressed_size': 1, 'psnr': 99}",
        "bitstream['data']",
        _REFUSED,
    ),
)

# The older contract: an agent that is called once for each frame and returns a dict.
_AGENT_ENCODER = """
def run_encoding_agent(device, test_frame, output_path):
    data = test_frame.tobytes()
    {body}
"""
_AGENT_DECODER = """
def run_decoding_agent(device, encoding_data, compressed_path, output_path):
    folder = os.path.dirname(compressed_path)
    {body}
    height, width = encoding_data["shape"]
    return numpy.frombuffer(data.ljust(height * width * 3, b"\\x80"), numpy.uint8).reshape(height, width, 3)
"""
_SHAPE = "'shape': list(test_frame.shape[:2])"


def _agent(name: str, goal: str, sends: str, takes: str, faults: frozenset[str] = frozenset()) -> Cheat:
    return Cheat(
        name=f"agent-{name}",
        goal=goal,
        encoder=source(_AGENT_ENCODER.format(body=sends)),
        decoder=source(_AGENT_DECODER.format(body=takes)),
        contract="agent",
        faults=faults,
    )


_TINY_FILE = "write(output_path, b'x'); "
_AGENTS = (
    _agent(
        "data-in-dict",
        "put the frame into the dict, beside a small file",
        _TINY_FILE + "return {'data': test_frame.copy(), " + _SHAPE + "}",
        "data = encoding_data['data'].tobytes()",
    ),
    _agent(
        "claims",
        "put the frame into the dict and claim a size of one byte",
        "return {'data': data, 'compressed_size': 1, 'psnr': 99.0, 'ssim': 1.0, " + _SHAPE + "}",
        "data = encoding_data['data']",
    ),
    _agent(
        "second-file",
        "write the frame into a file beside the one that is weighed",
        _TINY_FILE + "write(output_path + '.more', data); return {" + _SHAPE + "}",
        "data = read(compressed_path + '.more') if os.path.exists(compressed_path + '.more')"
        " else read(os.path.join(folder, 'compressed.bin.more'))",
    ),
    _agent(
        "file-names",
        "write the frame into the names of empty files",
        _TINY_FILE
        + "[write(f'{output_path}-{at:06d}-{data[at:at + 90].hex()}', b'') for at in range(0, len(data), 90)];"
        " return {" + _SHAPE + "}",
        "names = sorted(one for one in os.listdir(folder) if one.startswith('compressed.bin-'));"
        " data = bytes.fromhex(''.join(one.rpartition('-')[2] for one in names))",
    ),
    _agent(
        "dict-keys",
        "write the frame into the keys of a dict",
        _TINY_FILE + "return {'keys': {data.hex(): 1}, " + _SHAPE + "}",
        "data = bytes.fromhex(next(iter(encoding_data['keys'])))",
    ),
    _agent(
        "folder-above",
        "write the frame into a folder above",
        _TINY_FILE + "write(os.path.join(os.path.dirname(output_path), '..', '@MARK@-' + os.path.basename("
        "os.path.dirname(output_path))), data); return {" + _SHAPE + "}",
        "path = os.path.join(folder, '..', '@MARK@-' + os.path.basename(folder));"
        " data = attempt(lambda: read(path), b'')",
    ),
    _agent(
        "global",
        "keep the frames in the interpreter",
        _TINY_FILE + "torch.__dict__.setdefault('kept', []).append(data); return {" + _SHAPE + "}",
        "data = attempt(lambda: torch.kept.pop(0), b'')",
    ),
    _agent(
        "link",
        "write the frame into a file and weigh a link to it",
        "write('/tmp/@MARK@-' + os.path.basename(os.path.dirname(output_path)), data);"
        " os.symlink('/tmp/@MARK@-' + os.path.basename(os.path.dirname(output_path)), output_path);"
        " return {'compressed_size': 40, " + _SHAPE + "}",
        "data = attempt(lambda: take(compressed_path), b'')",
        faults=frozenset({"exception"}),  # where /tmp cannot be written at all
    ),
)

# The decoder reads a clock as it starts; the encoder waits until that will tell three bits. Nothing can take the time
# out of the world; it is counted as the encoder's, and tells a few bits a call, fewer than the header costs.
_CLOCKS = {"wall-clock": "CLOCK_REALTIME", "boot-clock": "CLOCK_BOOTTIME"}


def _timing(name: str, clock: str) -> Cheat:
    ticks = f"int(time.clock_gettime(time.{clock}) / 0.02) % 8"
    return hide_and_seek(
        f"timing-{name}",
        "wait until a clock tells the decoder three bits",
        f"while True:\n    now = time.clock_gettime(time.{clock}) / 0.02\n"
        "    if int(now) % 8 == data[0] % 8 and now % 1 < 0.1:\n        break",
        f"data = bytes([{ticks}])",
        mode=TWO_PROCESSES,
        judge="bits",
        clips=FLICKER,
        no_control="measured by test_waiting_is_charged_as_encode_time",
        unprevented="time passes in both worlds: a few bits a call, paid for in encode seconds",
    )


_TIMINGS = tuple(_timing(*both) for both in _CLOCKS.items())

_HONEST = Cheat(
    name="honest",
    goal="none: send everything, so that a fault of the battery itself shows",
    encoder=SENDS_ALL,
    decoder=TAKES_ALL,
    no_control="an honest submission",
)

CHEATS = (*_BESIDE, _RAISED, _EXIT_CODE, *_RETURNED, *_AGENTS, *_TIMINGS, _HONEST)
