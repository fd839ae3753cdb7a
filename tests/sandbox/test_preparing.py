"""What a jail is and takes before a submission is there counts against none of its limits."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from app.sandbox import limits, wire
from app.sandbox.call import Call
from app.sandbox.request import JailFault
from app.sandbox.standby import Device, Standby
from app.sandbox.watch import Watch
from tests.sandbox.test_wire_fuzz import CALL_LIMITS, Link

# As a driver does while a device is opened: threads, memory and processor time.
DRIVER = """
import threading, time
for _ in range(3):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
held = bytearray(20_000_000)
print(flush=True)
while True: pass
"""
TINY = replace(CALL_LIMITS, cpu_s=0.05, threads=1, memory_bytes=1)


@pytest.fixture
def jail() -> Iterator[tuple[Standby, int]]:
    """A process in place of a jail that is locked down at once, and has its device open after half a second."""
    ours, theirs = wire.pair()
    link = Link()
    with subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        wire.send(theirs, {"op": "confined"})
        opened = threading.Timer(0.5, wire.send, (theirs, {"op": "opened", "name": "GPU", "memory_bytes": 8 << 30}))
        opened.start()
        yield (
            Standby(
                number=process.pid,
                link=link,  # type: ignore[arg-type]
                channel=ours,
                logs=[],
                scratch_bytes=0,
                directory=None,
                pidfd=os.pidfd_open(process.pid),
            ),
            process.pid,
        )
        opened.join()
        process.kill()
    theirs.close()
    link.close()


def test_opening_a_device_breaks_no_limit_of_the_job(jail: tuple[Standby, int]) -> None:
    standby, pid = jail
    watch = Watch(pid=pid, tree=lambda: [pid], limits=TINY, mapped_bytes=0, directory=None)
    call = Call(standby, TINY, watch, None)
    try:
        assert call.await_confined(Device(name="cuda:0", memory_share=0.5)) == "GPU"
        assert call.watch.device_bytes == 4 << 30, "the slot's share of the device"
        call.begin()
        call.phase = "load"
        call.look()  # no thread and no byte is the submission's
        time.sleep(0.2)
        with pytest.raises(JailFault) as caught:
            call.look()
        assert caught.value.error_type == "cpu_time_limit"
        assert caught.value.used is not None and caught.value.used < 0.5, "what it took until then is not counted"
    finally:
        call.end()


def test_the_kernel_asks_before_it_kills_for_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the process has used by then does not count."""
    found = []
    monkeypatch.setattr(limits.time, "process_time", lambda: 7.3)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: found.append((kind, pair)))
    limits.limit_cpu_time(2.5)
    [(kind, (soft, hard))] = found
    assert kind == resource.RLIMIT_CPU
    assert 9.8 < soft < hard
