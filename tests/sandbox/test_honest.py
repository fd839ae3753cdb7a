"""Honest code is not hindered, and what the jail refuses by design says so in a sentence."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from app.domain.errors import SubmissionError
from app.domain.job import ErrorType
from tests.sandbox.jails import LIMITS, Lab, in_encode

ROOMY = replace(LIMITS, memory_bytes=2 << 30, scratch_bytes=64 << 20)

# name: the body of an encoder, and the bitstream that it returns
WORKS = {
    "matmul on two threads": (
        "import torch\ntorch.set_num_threads(2)\nx = torch.rand(512, 512)\nreturn str((x @ x).shape).encode()",
        b"torch.Size([512, 512])",
    ),
    "autograd and an optimiser": (
        """
        import torch
        model = torch.nn.Linear(8, 8)
        optimiser = torch.optim.Adam(model.parameters())
        for _ in range(3):
            loss = model(torch.rand(4, 8)).square().mean()
            optimiser.zero_grad(); loss.backward(); optimiser.step()
        return str(model.weight.grad.shape).encode()
        """,
        b"torch.Size([8, 8])",
    ),
    "jit.script": (
        "import torch\n@torch.jit.script\ndef double(x: torch.Tensor) -> torch.Tensor:\n    return x * 2 + 1\n"
        "return str(double(torch.ones(3)).sum().item()).encode()",
        b"9.0",
    ),
    "FFT": ("import torch\nreturn str(torch.fft.fft2(torch.rand(64, 64)).shape).encode()", b"torch.Size([64, 64])"),
    "convolution": (
        "import torch\nreturn str(torch.nn.Conv2d(3, 8, 3)(torch.rand(1, 3, 32, 32)).shape).encode()",
        b"torch.Size([1, 8, 30, 30])",
    ),
    "weights saved and loaded": (
        "import torch\ntorch.save({'a': torch.ones(3)}, 'w.pt')\nreturn str(torch.load('w.pt')['a'].sum()).encode()",
        b"tensor(3.)",
    ),
    "a video in memory": (
        """
        import av, io, numpy
        room = io.BytesIO()
        with av.open(room, 'w', format='mp4') as container:
            stream = container.add_stream('libx264', rate=25)
            stream.width = stream.height = 64; stream.pix_fmt = 'yuv420p'
            for index in range(5):
                picture = numpy.full((64, 64, 3), index * 40, numpy.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
            container.mux(stream.encode(None))
        room.seek(0)
        return str(sum(1 for _ in av.open(room).decode(video=0))).encode()
        """,
        b"5",
    ),
    "a picture in memory and in a file": (
        """
        import io
        from PIL import Image
        room = io.BytesIO()
        Image.new('RGB', (32, 24), (9, 8, 7)).save(room, 'WEBP')
        Image.new('RGB', (32, 24)).save('a.jpg')
        return repr((Image.open(room).size, Image.open('a.jpg').size)).encode()
        """,
        b"((32, 24), (32, 24))",
    ),
    "numpy": (
        "import numpy\nreturn str(numpy.linalg.svd(numpy.random.rand(64, 64))[1].shape).encode()",
        b"(64,)",
    ),
    "the standard library": (
        """
        import zlib, lzma, bz2, struct, hashlib, uuid, logging, random, decimal, statistics, csv, json, sqlite3, heapq
        import tempfile, ctypes, collections, pathlib, datetime, secrets, difflib, argparse, queue, gzip, tarfile
        import zipfile, xml.etree.ElementTree, html, email, ssl, unittest, cProfile, dataclasses, getpass
        sqlite3.connect(':memory:').execute('select 1'); uuid.uuid4(); getpass.getuser()
        with tempfile.TemporaryFile() as file: file.write(b'x')
        with tempfile.NamedTemporaryFile() as file: file.write(b'x')
        return zlib.decompress(zlib.compress(lzma.decompress(lzma.compress(b'abc'))))
        """,
        b"abc",
    ),
    "threads": (
        """
        import threading
        from concurrent.futures import ThreadPoolExecutor
        from multiprocessing.pool import ThreadPool
        with ThreadPoolExecutor(2) as pool: found = list(pool.map(abs, [1, -2]))
        return repr(found).encode()
        """,
        b"[1, 2]",
    ),
    "files in scratch": (
        """
        import numpy, os, shutil
        open('a', 'wb').write(b'abc'); shutil.copyfile('a', 'b'); os.rename('b', 'c'); os.mkdir('d')
        held = numpy.memmap('m', dtype='uint8', mode='w+', shape=(100,)); held[:] = 3; held.flush()
        return open(os.path.join(ctx.scratch, 'c'), 'rb').read() + str(held.sum()).encode()
        """,
        b"abc300",
    ),
    "prints": ("import sys\nprint('out')\nprint('err', file=sys.stderr)\nreturn b'fine'", b"fine"),
}

PROCESSES = "a submission cannot start processes"
SOCKETS = "a submission has no network and no sockets"
OTHERS = "change the mode, owner or times of files"
REFUSED = {
    "subprocess": ("import subprocess; subprocess.run(['ls'])", PROCESSES),
    "DataLoader workers": (
        "import torch\nfrom torch.utils.data import DataLoader\nlist(DataLoader(torch.zeros(8, 3), num_workers=2))",
        PROCESSES,
    ),
    "multiprocessing": ("from multiprocessing import Pool\nwith Pool(2) as pool: pool.map(abs, [1])", PROCESSES),
    "torch.compile": ("import torch\ntorch.compile(lambda x: x * 2 + 1)(torch.ones(3))", PROCESSES),
    "a connection": ("import socket; socket.create_connection(('127.0.0.1', 80))", SOCKETS),
    "a download": ("import urllib.request; urllib.request.urlopen('http://127.0.0.1:1')", SOCKETS),
    "chmod": ("import os; open('a', 'w').close(); os.chmod('a', 0o755)", OTHERS),
    "shutil.copy, which changes the mode": (
        "import shutil; open('a', 'w').close(); shutil.copy('a', 'b')",
        OTHERS,
    ),
}


@pytest.mark.parametrize("name", WORKS)
def test_it_works(each_lab: Lab, name: str) -> None:
    body, bitstream = WORKS[name]
    assert each_lab.encode(in_encode(body), limits=ROOMY).bitstream == bitstream


def test_temporary_files_by_their_usual_name(lab: Lab) -> None:
    """Where the scratch is mounted, /tmp leads to it, unless the interpreter or its packages lie there."""
    if any(path.startswith("/tmp/") for path in sys.path):
        pytest.skip("the packages of this checkout lie below /tmp")
    assert lab.encode(in_encode("open('/tmp/x', 'w').write('hi')\nreturn open('x', 'rb').read()")).bitstream == b"hi"


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_says_so(each_lab: Lab, name: str) -> None:
    body, words = REFUSED[name]
    with pytest.raises(SubmissionError) as caught:
        each_lab.encode(in_encode(body), limits=ROOMY)
    assert caught.value.fault.error_type is ErrorType.EXCEPTION
    assert words in caught.value.fault.message
