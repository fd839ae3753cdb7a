"""How much memory of NVIDIA's devices a process holds, as the driver's management library tells it from outside.

torch keeps to its share of a device, but code that asks the driver itself does not. Where the library is missing, or
does not tell processes apart (some virtual devices, some containers), nothing is known here and nothing bounded by it.
"""

from __future__ import annotations

import ctypes
from typing import Any

_NAME = "libnvidia-ml.so.1"
_TOO_SMALL = 7
_UNKNOWN = 2**64 - 1
_SPARE = 16  # processes that may have come since they were counted


class ProcessInfo(ctypes.Structure):
    """``nvmlProcessInfo_t`` of the third version of the call."""

    pid: int
    used_bytes: int
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used_bytes", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class DeviceMemory:
    """All devices of the machine: what a jail may open is more than the one that it was given."""

    def __init__(self, library: Any) -> None:
        """Raises ``OSError``, or ``AttributeError`` where the library is older than the calls."""
        self._running = library.nvmlDeviceGetComputeRunningProcesses_v3
        _check(library.nvmlInit_v2())
        count = ctypes.c_uint()
        _check(library.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        self._devices = []
        for index in range(count.value):
            device = ctypes.c_void_p()
            _check(library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)))
            self._devices.append(device)

    def used_by(self, pid: int) -> int | None:
        """Bytes on all devices together; None where that is not told."""
        found = [info.used_bytes for device in self._devices for info in self._processes(device) if info.pid == pid]
        known = [used for used in found if used != _UNKNOWN]
        return sum(known) if known else None

    def _processes(self, device: ctypes.c_void_p) -> list[ProcessInfo]:
        count = ctypes.c_uint(0)
        result = self._running(device, ctypes.byref(count), None)
        if result != _TOO_SMALL:
            return []
        room = (ProcessInfo * (count.value + _SPARE))()
        count = ctypes.c_uint(len(room))
        if self._running(device, ctypes.byref(count), room) != 0:
            return []
        return list(room[: count.value])


def load() -> DeviceMemory | None:
    """None where there is no such library, or no device that it knows."""
    try:
        return DeviceMemory(ctypes.CDLL(_NAME))
    except (OSError, AttributeError):
        return None


def _check(result: int) -> None:
    if result != 0:
        raise OSError(f"NVML: error {result}")
