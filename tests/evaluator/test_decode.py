"""Files to frames: real ones with the geometry that SOURCES.md states, and broken ones."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from app.domain.errors import ClipUnusable
from app.evaluator.clips.decode import RawHash, decode, untagged_matrix
from tests.evaluator.pictures import write_y4m


@pytest.mark.parametrize(
    ("name", "size", "pix_fmt", "full_range", "frames", "fps"),
    [
        ("tree_cif_30f.y4m", (352, 288), "yuv420p", False, 30, 25),
        ("park_joy_480x270_10f.y4m", (480, 270), "yuv420p", False, 10, 50),
        ("cars_768x432.mp4", (768, 432), "yuv420p", False, 377, 12.5),
        ("tree_1080p_54f.264", (1920, 1080), "yuv420p", True, 54, 25),
        ("kodak/kodim19.png", (512, 768), "rgb24", True, 1, 25),
        ("cosmos1650_1024x428_444p10.y4m", (1024, 428), "yuv444p10le", True, 1, 25),
    ],
)
def test_real_files_have_the_stated_geometry(shared_clip, name, size, pix_fmt, full_range, frames, fps):
    found = [(stream, picture[0].shape) for stream, picture in decode(shared_clip(name), "clip")]
    assert {shape for _, shape in found} == {(size[1], size[0])}
    assert len(found) == frames
    stream = found[-1][0]
    assert (stream.width, stream.height, stream.pix_fmt, stream.full_range) == (*size, pix_fmt, full_range)
    assert stream.fps == fps
    assert stream.matrix == ("bt601" if name.startswith("cars") else None)


@pytest.mark.parametrize(("width", "height"), [(64, 48), (33, 17), (1, 1)])
def test_the_hash_of_raw_frames_is_of_the_files_own_bytes(tmp_path, width, height):
    raw = write_y4m(tmp_path / "noise.y4m", width=width, height=height)
    sha256 = RawHash("yuv420p")
    for _, picture in decode(tmp_path / "noise.y4m", "noise"):
        sha256.add(picture)
    assert sha256.hexdigest() == hashlib.sha256(raw.tobytes()).hexdigest()


def test_a_still_is_packed_rgb(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "still.png")
    [(stream, picture)] = decode(tmp_path / "still.png", "still")
    assert (stream.pix_fmt, stream.matrix) == ("rgb24", None)
    assert (np.stack(picture, axis=-1) == pixels).all()
    sha256 = RawHash("rgb24")
    sha256.add(picture)
    assert sha256.hexdigest() == hashlib.sha256(pixels.tobytes()).hexdigest()


def test_a_jpeg_keeps_its_own_planes(tmp_path):
    Image.new("RGB", (30, 20), (200, 30, 90)).save(tmp_path / "photo.jpg", subsampling="4:2:0")
    [(stream, picture)] = decode(tmp_path / "photo.jpg", "photo")
    assert (stream.pix_fmt, stream.full_range, stream.matrix) == ("yuv420p", True, "bt601")
    assert picture[1].shape == (10, 15)


def test_an_untagged_clip_is_bt709_from_720_lines_on():
    assert [untagged_matrix(lines) for lines in (360, 719, 720, 1080)] == ["bt601", "bt601", "bt709", "bt709"]


def write_mjpeg(path: Path, sizes: list[tuple[int, int]]) -> None:
    """An mjpeg stream whose frames have those sizes, in a Matroska file that announces the first."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = *sizes[0], "yuvj420p"
        for index, (width, height) in enumerate(sizes):
            jpeg = io.BytesIO()
            Image.new("RGB", (width, height), (index * 40, 10, 10)).save(jpeg, "jpeg", subsampling="4:2:0")
            packet = av.Packet(jpeg.getvalue())
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, index, index, True
            container.mux(packet)


def test_frames_of_mixed_size_are_refused(tmp_path):
    write_mjpeg(tmp_path / "same.mkv", [(64, 48)] * 3)
    assert len(list(decode(tmp_path / "same.mkv", "same"))) == 3
    write_mjpeg(tmp_path / "mixed.mkv", [(64, 48), (64, 48), (32, 48)])
    with pytest.raises(ClipUnusable, match=r"clip 'mixed': its frames change from 64x48 yuv420p to 32x48 yuv420p"):
        list(decode(tmp_path / "mixed.mkv", "mixed"))


def cut(data: bytes) -> bytes:
    return data[: len(data) * 3 // 5]


def scratched(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 0x5A for byte in data[middle : middle + 400]) + data[middle + 400 :]


# A changed byte of entropy-coded data need not be an error of syntax: the file's hash in the manifest finds those.
@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("bbb_720p_132f.mp4", cut),
        ("bbb_720p_132f.mp4", scratched),
        ("cars_768x432.mp4", cut),
        ("kodak/kodim01.png", cut),
        ("kodak/kodim01.png", scratched),
    ],
)
def test_corrupt_and_cut_files_are_refused(shared_clip, tmp_path, name, harm):
    path = tmp_path / Path(name).name
    path.write_bytes(harm(shared_clip(name).read_bytes()))
    with pytest.raises(ClipUnusable, match=f"clip 'broken': {path.name} is (corrupt|cut off)"):
        list(decode(path, "broken"))


@pytest.mark.parametrize(
    ("name", "content", "fact"),
    [
        ("empty.mp4", b"", "corrupt or cut off"),
        ("noise.mp4", bytes(range(256)) * 40, "corrupt or cut off"),
        ("none.y4m", b"YUV4MPEG2 W64 H64 F25:1 Ip A1:1 C420jpeg\n", "no frames"),
        ("notes.txt", b"hello", "of no known kind"),
        ("list.mp4", b"#EXTM3U\n/etc/passwd\n", "corrupt or cut off"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, name, content, fact):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ClipUnusable, match=f"clip 'bad': .*{fact}"):
        list(decode(tmp_path / name, "bad"))


def test_an_incomplete_last_frame_of_a_y4m_file_is_noticed(tmp_path):
    path = tmp_path / "cut.y4m"
    write_y4m(path)
    assert len(list(decode(path, "cut"))) == 3
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ClipUnusable, match="last frame is incomplete"):
        list(decode(path, "cut"))


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_an_unsupported_pixel_format_is_named(tmp_path, mode):
    Image.new(mode, (16, 16)).save(tmp_path / "odd.png")
    with pytest.raises(ClipUnusable, match=r"pixel format .* is not supported"):
        list(decode(tmp_path / "odd.png", "odd"))


@pytest.mark.parametrize("rate", [b"F0:0 ", b""])
def test_a_frame_rate_that_is_not_stated_is_not_made_up(tmp_path, rate):
    path = tmp_path / "untimed.y4m"
    write_y4m(path)
    path.write_bytes(path.read_bytes().replace(b"F25:1 ", rate, 1))
    with pytest.raises(ClipUnusable, match=r"clip 'untimed': untimed.y4m does not state its frame rate"):
        list(decode(path, "untimed"))
