"""System V and POSIX objects outside the jail, made through ctypes. Each function raises ``OSError``."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_IPC_CREAT = 0o1000
_IPC_EXCL = 0o2000
_IPC_RMID = 0
_GETVAL = 12
_SETVAL = 16
_SYS_MQ_OPEN = 240
_SYS_MQ_UNLINK = 241
_SYS_MQ_TIMEDSEND = 242
_SIZE = 4096

_libc = ctypes.CDLL(None, use_errno=True)
_libc.shmat.restype = ctypes.c_void_p
_libc.syscall.restype = ctypes.c_long


class _Message(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_long), ("text", ctypes.c_char * 64))


class _MqAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_long) for name in ("flags", "maxmsg", "msgsize", "curmsgs", "a", "b", "c", "d"))


def _checked(result: int) -> int:
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Shared:
    """A System V segment with a secret in it."""

    def __init__(self, key: int, secret: bytes) -> None:
        self.id = _checked(_libc.shmget(key, _SIZE, _IPC_CREAT | _IPC_EXCL | 0o666))
        address = _libc.shmat(self.id, None, 0)
        self._view = (ctypes.c_char * _SIZE).from_address(address)
        self.write(secret)

    def write(self, secret: bytes) -> None:
        self._view.value = secret

    def content(self) -> bytes:
        return bytes(self._view.value)

    def close(self) -> None:
        _libc.shmdt(ctypes.c_void_p(ctypes.addressof(self._view)))
        _libc.shmctl(self.id, _IPC_RMID, None)


class Messages:
    """A System V queue that holds one message."""

    def __init__(self, key: int, secret: bytes) -> None:
        self.id = _checked(_libc.msgget(key, _IPC_CREAT | _IPC_EXCL | 0o666))
        message = _Message(1, secret)
        _checked(_libc.msgsnd(self.id, ctypes.byref(message), len(secret), 0))

    def close(self) -> None:
        _libc.msgctl(self.id, _IPC_RMID, None)


class Semaphore:
    """A System V set of one semaphore, at 1."""

    def __init__(self, key: int) -> None:
        self.id = _checked(_libc.semget(key, 1, _IPC_CREAT | _IPC_EXCL | 0o666))
        self.reset()

    def reset(self) -> None:
        _checked(_libc.semctl(self.id, 0, _SETVAL, 1))

    def value(self) -> int:
        return int(_libc.semctl(self.id, 0, _GETVAL))

    def close(self) -> None:
        _libc.semctl(self.id, 0, _IPC_RMID)


class PosixQueue:
    """A POSIX queue that holds one message."""

    def __init__(self, name: str, secret: bytes) -> None:
        self.name = name
        attributes = _MqAttributes(maxmsg=4, msgsize=64)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        fd = _checked(_libc.syscall(_SYS_MQ_OPEN, name.encode(), flags, 0o666, ctypes.byref(attributes)))
        try:
            _checked(_libc.syscall(_SYS_MQ_TIMEDSEND, fd, secret, len(secret), 0, None))
        finally:
            os.close(fd)

    def close(self) -> None:
        with suppress(OSError):
            _checked(_libc.syscall(_SYS_MQ_UNLINK, self.name.encode()))


def handle_of(path: str) -> tuple[int, bytes]:
    """A file's handle, as open_by_handle_at takes it: its kind and its bytes."""

    class Handle(ctypes.Structure):
        _fields_ = (("size", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * 128))

    handle, mount = Handle(size=128), ctypes.c_int()
    _checked(_libc.name_to_handle_at(-100, path.encode(), ctypes.byref(handle), ctypes.byref(mount), 0))
    return handle.kind, bytes(handle.data[: handle.size])
