"""Bytes that cross between processes: memfds whose size, and for inputs also content, nobody can change."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

_FIXED_SIZE = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_SEALED = _FIXED_SIZE | fcntl.F_SEAL_WRITE


def sealed(data: bytes, name: str) -> int:
    """A memfd that holds ``data`` and can never change. The caller closes it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALED)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def holding(data: bytes, name: str) -> Iterator[int]:
    """The same for a block: the descriptor is closed after it."""
    fd = sealed(data, name)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def reopened(fd: int) -> Iterator[int]:
    """The same memory, read-only, by a description of its own: its offset and locks are not those of ``fd``."""
    own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield own
    finally:
        os.close(own)


def output(size_bytes: int, name: str, *, populate: bool) -> int:
    """A writable memfd of a fixed size. ``populate`` allocates its pages now, so that no clock pays for them later."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _FIXED_SIZE)
        if populate and size_bytes:
            os.posix_fallocate(fd, 0, size_bytes)
    except BaseException:
        os.close(fd)
        raise
    return fd


def require_sealed(fd: int, size_bytes: int) -> None:
    """Raise ``ValueError`` unless ``fd`` is a memfd of exactly this size that can neither change nor be resized."""
    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    if seals & wanted != wanted:
        raise ValueError("an input that is not sealed")
    if os.fstat(fd).st_size != size_bytes:
        raise ValueError(f"an input of {os.fstat(fd).st_size} bytes instead of {size_bytes}")


def private_map(fd: int, size_bytes: int) -> mmap.mmap:
    """A copy-on-write view: in-place writes work and stay in this process."""
    return mmap.mmap(fd, size_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def shared_map(fd: int, size_bytes: int) -> mmap.mmap:
    """A writable view with its page table filled in."""
    return mmap.mmap(fd, size_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def read(fd: int, size_bytes: int) -> bytes:
    """The first ``size_bytes`` bytes. (Kernels before 6.7 refuse shared maps of write-sealed memory.)"""
    if size_bytes == 0:
        return b""
    with mmap.mmap(fd, size_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as view:
        return view[:]
