"""A process outside the jail that holds secrets. Run as a script; it prints its facts as one line of JSON."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time

_PR_SET_NAME = 15
_PR_SET_PTRACER = 0x59616D61
_ANY = ctypes.c_ulong(-1)


def main(name: str, folder: str, memory_secret: str, fd_secret: str) -> None:
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
    # Where Yama is at work, anybody of the same user may trace this process all the same.
    libc.prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
    # A signal is to have its usual effect, whoever started us.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    held = ctypes.create_string_buffer(memory_secret.encode())
    path = os.path.join(folder, "unlinked")
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd, fd_secret.encode())
    os.unlink(path)
    facts = {"address": ctypes.addressof(held), "length": len(memory_secret), "fd": fd}
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(*sys.argv[1:])
