"""Reading code before it is queued, in a real process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from app.adapters.inspector import ProcessInspector
from tests.sandbox.jails import alive

pytestmark = pytest.mark.asyncio(loop_scope="module")

E = "def encode(frames, ctx): ..."
D = "def decode(bitstream, ctx): ..."
AGENT_E = "def run_encoding_agent(device, test_frame, output_path): ..."
AGENT_D = "def run_decoding_agent(device, encoding_data): ..."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def inspector() -> AsyncIterator[ProcessInspector]:
    async with ProcessInspector() as running:
        yield running


@pytest.mark.parametrize(
    ("encoder", "decoder", "asked", "contract", "frame_format"),
    [
        (E, D, "auto", "native", "rgb"),
        (E, D, "native", "native", "rgb"),
        ('FORMAT = "yuv420"\n' + E, D, "auto", "native", "yuv420"),
        (E, 'FORMAT: str = "yuv420"\n' + D, "auto", "native", "yuv420"),
        (AGENT_E, AGENT_D, "auto", "agent", "rgb"),
        (AGENT_E + "\n" + E, AGENT_D, "auto", "agent", "rgb"),
        ("from codecs_of_mine import encode", "import x as decode", "auto", "native", "rgb"),
        ("if True:\n    encode = make()", "try:\n    decode = 1\nexcept E: ...", "auto", "native", "rgb"),
        ("class encode: ...", "a, (b, decode) = make()", "auto", "native", "rgb"),
        ("from everything import *", "globals()['decode'] = 1", "native", "native", "rgb"),
        ("x = '\\d'\n" + E, D, "auto", "native", "rgb"),
    ],
)
async def test_contracts_that_are_found(
    inspector: ProcessInspector, encoder: str, decoder: str, asked: str, contract: str, frame_format: str
) -> None:
    found = await inspector.inspect(encoder, decoder, asked)
    assert found.errors == ()
    assert (found.contract, found.frame_format, found.checked) == (contract, frame_format, True)


@pytest.mark.parametrize(
    ("encoder", "decoder", "asked", "field", "words", "line", "column"),
    [
        ("x = 1\ndef (", D, "auto", "encoder", "invalid syntax", 2, 5),
        (E, "return 1", "auto", "decoder", "'return' outside function", 1, 1),
        ("  \n", D, "auto", "encoder", "the code is empty", None, None),
        ("x = 1\nab\0c", D, "auto", "encoder", "null byte", 2, 3),
        ("\ud800", D, "auto", "encoder", "not valid Unicode", None, None),
        ("(" * 90_000 + ")" * 90_000, D, "auto", "encoder", "nested", 1, 201),
        ("-" * 200_000 + "1", D, "auto", "encoder", "nested", None, None),
        ("x = " + "+".join(["1"] * 60_000), D, "auto", "encoder", "nested", None, None),
        ("x = 1", D, "auto", "encoder", "native: encode(frames, ctx) -> bytes; agent: run_encoding_agent(", None, None),
        ("from m import *", D, "auto", "encoder", "say which with `contract`", None, None),
        ("def encode(frames): ...", D, "auto", "encoder", "encode(frames) belongs to a contract", None, None),
        ("def encode(frames, output_path): ...", D, "auto", "encoder", "is not accepted here", None, None),
        ("def compress_video_tensor(f, c, d): ...", D, "auto", "encoder", "compress_video_tensor belongs", None, None),
        (E, "x = 1", "auto", "decoder", "does not define decode", None, None),
        (E, D, "agent", "encoder", "does not define run_encoding_agent", None, None),
        (E, D, "frame", "contract", "there is no contract 'frame'; accepted: native; agent", None, None),
        ("\nFORMAT = 'bgr'\n" + E, D, "auto", "encoder", 'FORMAT has to be "rgb" or "yuv420"', 2, None),
        ("FORMAT = f()\n" + E, D, "auto", "encoder", "FORMAT has to be", 1, None),
        ("FORMAT = 'yuv420'\n" + E, "FORMAT = 'rgb'\n" + D, "auto", "decoder", "but the encoder's is", 1, None),
    ],
)
async def test_code_that_is_refused(
    inspector: ProcessInspector,
    encoder: str,
    decoder: str,
    asked: str,
    field: str,
    words: str,
    line: int | None,
    column: int | None,
) -> None:
    found = await inspector.inspect(encoder, decoder, asked)
    assert found.contract is None
    assert found.errors[0].field == field
    assert words in found.errors[0].message
    assert (found.errors[0].line, found.errors[0].column) == (line, column)


async def test_nothing_is_run(inspector: ProcessInspector) -> None:
    code = "import os\nos.kill(os.getppid(), 9)\nwhile True: pass\n" + E
    assert (await inspector.inspect(code, D, "auto")).contract == "native"


async def test_what_takes_too_long_is_accepted_unchecked_and_the_next_is_checked() -> None:
    slow = "x = [" + "{1: lambda: 0}, " * 20_000 + "]"
    async with ProcessInspector(timeout_s=0.1) as inspector:
        found = await inspector.inspect(slow, D, "auto")
        assert (found.checked, found.contract, found.errors) == (False, None, ())
        assert not (await inspector.inspect(slow, D, "native")).checked
    async with ProcessInspector() as inspector:
        again = await asyncio.gather(*(inspector.inspect(f"#{n}\n{E}", D, "auto") for n in range(20)))
        assert {found.contract for found in again} == {"native"}


async def test_a_process_that_is_killed_is_replaced_and_none_is_left() -> None:
    inspector = ProcessInspector()
    await inspector.start()
    pids = [reader.pid for reader in inspector.readers]
    for reader in inspector.readers:
        reader.kill()
    found = await asyncio.gather(*(inspector.inspect(f"#{n}\n{E}", D, "auto") for n in range(4)))
    assert found[-1].contract == "native"
    pids += [reader.pid for reader in inspector.readers]
    await inspector.stop()
    assert not [pid for pid in pids if pid is not None and alive(pid)]
