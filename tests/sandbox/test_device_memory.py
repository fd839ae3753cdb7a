"""Memory on devices, watched from outside, with a stand-in for the driver's library."""

from __future__ import annotations

import ctypes
import os
from dataclasses import replace
from typing import Any

import pytest

from app.sandbox import nvml
from app.sandbox.watch import Watch
from tests.sandbox.test_wire_fuzz import CALL_LIMITS

GIB = 1 << 30
UNKNOWN = 2**64 - 1


class Library:
    """As ``libnvidia-ml.so.1``: ``held`` is, for each device, the processes on it with what they hold."""

    def __init__(self, *held: dict[int, int]) -> None:
        self.held = held
        self.looks = 0

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self.held)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, device: Any) -> int:
        device._obj.value = index.value + 1
        return 0

    def nvmlDeviceGetComputeRunningProcesses_v3(self, device: ctypes.c_void_p, count: Any, room: Any) -> int:
        assert device.value is not None
        held = self.held[device.value - 1]
        fits = count._obj.value >= len(held)
        count._obj.value = len(held)
        if not fits:
            return 7
        self.looks += room is not None
        for info, (pid, used) in zip(room or (), held.items(), strict=False):
            info.pid, info.used_bytes = pid, used
        return 0


def test_a_process_is_counted_on_all_devices() -> None:
    memory = nvml.DeviceMemory(Library({7: 3 * GIB, 8: 1}, {}, {9: 5, 7: 2 * GIB}))
    assert [memory.used_by(pid) for pid in (7, 8, 9)] == [5 * GIB, 1, 5]


def test_what_is_not_told_is_not_known() -> None:
    assert nvml.DeviceMemory(Library({7: UNKNOWN}, {})).used_by(7) is None
    assert nvml.DeviceMemory(Library({8: 1})).used_by(7) is None


def test_the_structure_is_the_librarys() -> None:
    assert ctypes.sizeof(nvml.ProcessInfo) == 24
    assert nvml.ProcessInfo.used_bytes.offset == 8


def test_a_machine_without_the_library_or_with_an_old_one_has_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml.ctypes, "CDLL", lambda name: object())
    assert nvml.load() is None
    library = Library({})
    library.nvmlInit_v2 = lambda: 9  # type: ignore[method-assign]
    monkeypatch.setattr(nvml.ctypes, "CDLL", lambda name: library)
    assert nvml.load() is None


def test_memory_had_past_torch_is_a_breach_of_the_calls_limit() -> None:
    pid = os.getpid()
    library = Library({pid: 2 * GIB})
    limits = replace(CALL_LIMITS, threads=1000, memory_bytes=1 << 40, device_memory_bytes=4 * GIB)
    watch = Watch(
        pid=pid,
        tree=lambda: [pid],
        limits=limits,
        mapped_bytes=0,
        directory=None,
        device=nvml.DeviceMemory(library).used_by,
    )
    watch.begin()

    def looked() -> str | None:
        breaches = [watch.look() for _ in range(4)]
        return next((breach.error_type for breach in breaches if breach), None)

    library.held[0][pid] = (2 + 4 + 1) * GIB
    assert looked() is None, "the context that was there, the limit, and what libraries load"
    library.held[0][pid] += 1
    assert looked() == "gpu_memory_limit"
    assert library.looks == 3, "the devices are asked at the start and at every fourth look"
