"""Each limit ends the call with its own name, the limit and what was used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.errors import SubmissionError
from app.domain.job import Blame, ErrorType, Fault, Limits
from tests.sandbox.jails import LIMITS, Lab, in_encode

FORKED = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        held = bytearray(80_000_000)
        time.sleep(60)
time.sleep(60)
"""
THREADS = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"


def fault_of(lab: Lab, body: str, limits: Limits = LIMITS) -> Fault:
    with pytest.raises(SubmissionError) as caught:
        lab.encode(in_encode(body), limits=limits)
    return caught.value.fault


@pytest.mark.parametrize(
    "body",
    [
        "return bytes(8 << 30)",
        "import torch; return torch.ones(2 << 30)",
        "held = []\nwhile True: held.append(bytearray(10_000_000))",
        THREADS,
    ],
)
def test_memory_beyond_the_limit(lab: Lab, body: str) -> None:
    fault = fault_of(lab, body, replace(LIMITS, memory_bytes=128 << 20))
    assert (fault.error_type, fault.blame, fault.limit) == (ErrorType.MEMORY_LIMIT, Blame.LIMIT, 128 << 20)
    assert fault.used is not None


def test_memory_of_forked_processes_counts_together(each_forking_lab: Lab) -> None:
    """Each stays below the limit alone."""
    fault = fault_of(each_forking_lab, FORKED, replace(LIMITS, memory_bytes=200 << 20))
    assert fault.error_type is ErrorType.MEMORY_LIMIT
    assert fault.used is not None and fault.used > 200 << 20


def test_a_forked_copy_is_not_counted_twice(each_forking_lab: Lab) -> None:
    """120 MB shared between three processes stay below 256 MB."""
    body = """
    import os, time
    held = bytearray(120_000_000)
    for _ in range(2):
        if os.fork() == 0:
            time.sleep(60)
    time.sleep(0.4)
    return b'fine'
    """
    encoded = each_forking_lab.encode(in_encode(body), limits=replace(LIMITS, memory_bytes=256 << 20))
    assert encoded.bitstream == b"fine"


def test_peak_memory_is_what_the_call_added(lab: Lab) -> None:
    small = lab.encode(in_encode("return b''")).peak_memory_bytes
    large = lab.encode(in_encode("held = bytearray(50_000_000); return b''")).peak_memory_bytes
    assert small is not None and small < 10_000_000
    assert large is not None and 45_000_000 < large < 70_000_000


def test_output_beyond_the_limit(lab: Lab) -> None:
    fault = fault_of(lab, f"return bytes({LIMITS.output_bytes} + 1)")
    assert (fault.error_type, fault.limit) == (ErrorType.OUTPUT_LIMIT, LIMITS.output_bytes)
    assert fault.used == LIMITS.output_bytes + 1


def test_scratch_beyond_the_limit(each_lab: Lab) -> None:
    body = "import time\nopen('file', 'wb').write(bytes(40 << 20))\ntime.sleep(1)"
    fault = fault_of(each_lab, body)
    assert (fault.error_type, fault.limit) == (ErrorType.DISK_LIMIT, LIMITS.scratch_bytes)


def test_scratch_within_the_limit_works(each_lab: Lab) -> None:
    body = """
    import os, tempfile
    with open(os.path.join(ctx.scratch, 'a'), 'wb') as file: file.write(b'abc')
    with tempfile.TemporaryFile() as file: file.write(b'x')
    return open('a', 'rb').read()
    """
    assert each_lab.encode(in_encode(body)).bitstream == b"abc"
