"""Each limit ends the call with its own name, the limit and what was used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.errors import SubmissionError
from app.domain.job import Blame, ErrorType, Fault, Limits, Stage
from tests.sandbox.jails import ENCODER, LIMITS, Lab, in_encode

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


def test_cpu_time_of_all_threads(each_lab: Lab) -> None:
    body = "import threading\ndef spin():\n    while True: sum(range(10_000))\nspin()"
    fault = fault_of(each_lab, body, replace(LIMITS, cpu_s=0.5))
    assert (fault.error_type, fault.limit) == (ErrorType.CPU_TIME_LIMIT, 0.5)
    assert fault.used is not None and 0.5 < fault.used < 1.5


def test_threads_beyond_the_limit(each_lab: Lab) -> None:
    fault = fault_of(each_lab, THREADS, replace(LIMITS, memory_bytes=4 << 30, threads=20))
    assert (fault.error_type, fault.blame, fault.limit) == (ErrorType.PROCESS_LIMIT, Blame.LIMIT, 20)
    assert fault.used is not None and fault.used >= 20


def test_open_files_beyond_the_limit(each_lab: Lab) -> None:
    body = "held = []\nwhile True: held.append(open('/dev/null'))"
    fault = fault_of(each_lab, body, replace(LIMITS, open_files=64))
    assert (fault.error_type, fault.limit, fault.used) == (ErrorType.PROCESS_LIMIT, 64, 64)


def test_files_in_scratch_count_as_memory_where_they_are(lab: Lab) -> None:
    """The scratch is memory: what fits there may still be more than the job has."""
    body = "import time\nopen('file', 'wb').write(bytes(100 << 20))\ntime.sleep(5)"
    fault = fault_of(lab, body, replace(LIMITS, memory_bytes=64 << 20, scratch_bytes=256 << 20))
    assert (fault.error_type, fault.limit) == (ErrorType.MEMORY_LIMIT, 64 << 20)


def test_deleted_files_that_are_open_count_as_scratch(plain_lab: Lab) -> None:
    body = "import os, time\nfile = open('file', 'wb')\nos.unlink('file')\nfile.write(bytes(40 << 20))\ntime.sleep(5)"
    fault = fault_of(plain_lab, body)
    assert (fault.error_type, fault.limit) == (ErrorType.DISK_LIMIT, LIMITS.scratch_bytes)


@pytest.mark.parametrize("where", ["import", "setup"])
def test_loading_has_a_limit_of_its_own(lab: Lab, where: str) -> None:
    sleep = "import time; time.sleep(60)"
    code = f"{sleep}\n{ENCODER}" if where == "import" else f"{ENCODER}\ndef setup(ctx):\n    {sleep}"
    with pytest.raises(SubmissionError) as caught:
        lab.encode(code, limits=replace(LIMITS, start_s=0.4), wall_s=20)
    fault = caught.value.fault
    assert (fault.error_type, fault.stage, fault.limit) == (ErrorType.WALL_TIME_LIMIT, Stage.LOAD, 0.4)
    assert fault.used is not None and fault.used < 1.4


def test_a_long_start_does_not_take_from_the_call_what_is_left(lab: Lab) -> None:
    code = "import time; time.sleep(0.3)\n" + in_encode("import time; time.sleep(0.4); return b'x'")
    assert lab.encode(code, limits=replace(LIMITS, start_s=0.5), wall_s=20).bitstream == b"x"


@pytest.mark.parametrize("where", ["encode", "import"])
def test_a_limit_too_small_for_anything_is_the_jobs_failure_and_not_ours(each_lab: Lab, where: str) -> None:
    hold = "held = bytearray(100_000_000)"
    code = f"{hold}\n{ENCODER}" if where == "import" else in_encode(f"{hold}\nreturn b''")
    for _ in range(5):
        with pytest.raises(SubmissionError) as caught:
            each_lab.encode(code, limits=replace(LIMITS, memory_bytes=1))
        assert caught.value.fault.error_type is ErrorType.MEMORY_LIMIT


HOARD = """
held = []
for size in (1 << 20, 1 << 16, 1 << 12, 1 << 9, 1 << 6):
    try:
        while True: held.append(bytearray(size))
    except MemoryError: pass
"""


def test_memory_used_up_to_the_last_byte(each_lab: Lab) -> None:
    """So that there may be none left to take the next question, or to say anything."""
    with pytest.raises(SubmissionError) as caught:
        each_lab.encode(HOARD + ENCODER, limits=replace(LIMITS, memory_bytes=64 << 20))
    fault = caught.value.fault
    assert fault.error_type is ErrorType.MEMORY_LIMIT
    assert "/sandbox/" not in f"{fault.log_tail}{fault.traceback}"


def test_the_kernels_limit_of_cpu_time_signals_before_it_kills(each_lab: Lab) -> None:
    body = "import resource\nreturn repr(resource.getrlimit(resource.RLIMIT_CPU)).encode()"
    soft, hard = eval(each_lab.encode(in_encode(body), limits=replace(LIMITS, cpu_s=3)).bitstream)
    assert 5 <= soft < hard <= 10
