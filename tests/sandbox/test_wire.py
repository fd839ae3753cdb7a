"""The messages: what a hostile sender can do to a receiver is to get its message refused."""

from __future__ import annotations

import gc
import os
import random
import socket
from collections.abc import Iterator

import pytest

from app.sandbox import memory, wire

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = wire.pair()
    with one, other:
        yield one, other


def open_fds() -> int:
    gc.collect()  # what other tests have left behind must not be closed in between
    return len(os.listdir("/proc/self/fd"))


def test_a_message_and_its_descriptors_arrive(pair: Pair) -> None:
    with memory.holding(b"abc", "x") as fd:
        wire.send(pair[0], {"op": "go"}, [fd])
        message, received = wire.receive(pair[1], descriptors=1)
    assert message == {"op": "go"}
    assert memory.read(received[0], 3) == b"abc"
    assert not os.get_inheritable(received[0])
    os.close(received[0])


def test_descriptors_that_nobody_asked_for_are_refused_and_closed(pair: Pair) -> None:
    before = open_fds()
    for count, wanted in ((1, 0), (2, 1), (250, 1)):
        wire.send(pair[0], {}, [0] * count)
        with pytest.raises(wire.WireError):
            wire.receive(pair[1], descriptors=wanted)
    assert open_fds() == before


@pytest.mark.parametrize(
    "data",
    [b"x", b"[]", b"1", b"null", b"\xff\xfe", b"{", b'{"a":NaN}', b"[" * 50_000, b'{"a":' * 9000, b" " * 70_000, b"\0"],
)
def test_what_is_no_message_is_refused(pair: Pair, data: bytes) -> None:
    pair[0].send(data)
    with pytest.raises(wire.WireError):
        wire.receive(pair[1])


def test_random_bytes_are_refused(pair: Pair) -> None:
    rng = random.Random(1)
    for _ in range(2000):
        pair[0].send(rng.randbytes(rng.randrange(1, 200)))
        with pytest.raises(wire.WireError):
            wire.receive(pair[1])


def test_the_other_end_gone(pair: Pair) -> None:
    pair[0].close()
    with pytest.raises(wire.Closed):
        wire.receive(pair[1])
    with pytest.raises(wire.Closed):
        wire.send(pair[1], {})


def test_text_and_numbers_are_checked() -> None:
    assert wire.text({"a": "x" * 100}, "a", 10) == "... " + "x" * 10
    assert wire.text({"a": "\ud800"}, "a", 10) == "?"
    assert wire.text({}, "a", 10) is None
    for wrong in ({"a": 1}, {"a": ["x"]}):
        with pytest.raises(wire.WireError):
            wire.text(wrong, "a", 10)
    for wrong_size in (-1, 11, 1.0, True, "1", None, 10**400):
        with pytest.raises(wire.WireError):
            wire.size({"a": wrong_size}, "a", 10)


def test_sealed_memory_cannot_be_changed() -> None:
    with memory.holding(b"abc", "x") as fd:
        memory.require_sealed(fd, 3)
        with pytest.raises(OSError):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(OSError):
            os.ftruncate(fd, 0)
        with pytest.raises(ValueError, match="3 bytes instead of 4"):
            memory.require_sealed(fd, 4)


def test_an_output_has_a_fixed_size() -> None:
    fd = memory.output(4096, "x", populate=True)
    try:
        for size in (0, 8192):
            with pytest.raises(OSError):
                os.ftruncate(fd, size)
        assert os.fstat(fd).st_blocks == 8
        with pytest.raises(ValueError, match="not sealed"):
            memory.require_sealed(fd, 4096)
    finally:
        os.close(fd)
