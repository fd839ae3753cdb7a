"""The whole way with codecs that run in this process."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.domain.errors import SubmissionError, WorkerLost
from app.domain.evaluation import FrameRange
from app.domain.job import Blame, ErrorType, Fault, JobSpec, Limits, Stage
from app.evaluator import pipeline
from app.evaluator.clips import ClipSource, add_suite
from app.evaluator.codec import HEADER, Geometry, Layout
from app.evaluator.metrics.psnr import IDENTICAL
from app.ports import Failed, Succeeded
from tests.evaluator.codecs import Drifting, Failing, Shifting
from tests.evaluator.pictures import write_y4m

SPEC = JobSpec(encoder_sha256="e" * 64, decoder_sha256="d" * 64, contract="native", body_sha256="b" * 64, suite="own")
POINTS = ({"shift": 1}, {"shift": 2}, {"shift": 3}, {"shift": 4})
MOVING = "moving"


class Ticks:
    """A clock that moves by one second, or more, whenever it is read."""

    def __init__(self, step_s: float = 1) -> None:
        self.now = 0.0
        self._step_s = step_s

    def __call__(self) -> float:
        self.now += self._step_s
        return self.now


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data folder with the suite ``own``: ``moving`` 64x48, 3 frames, 25 fps, and ``still``, a picture of 50x30."""
    folder: Path = tmp_path_factory.mktemp("world")
    write_y4m(folder / "moving.y4m")
    pixels = np.random.default_rng(3).integers(0, 256, (30, 50, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "still.png")
    suite = add_suite(folder, "own", [folder / "moving.y4m", folder / "still.png"])
    return suite, ClipSource(folder)


def run(world, codec, observe=lambda progress: None, clock=Ticks, **changes):
    suite, source = world
    spec = replace(SPEC, **{"clips": (MOVING,), **changes})
    return pipeline.evaluate(spec, suite, codec, source, observe, {"device": {"name": "test"}}, clock())


def test_a_lossless_codec_is_lossless_and_has_no_psnr(world):
    outcome = run(world, Shifting())
    assert isinstance(outcome, Succeeded)
    [point] = outcome.report.points
    assert point.lossless
    assert point.metrics == {"ssim": 1.0}
    assert point.missing["psnr_y"] == IDENTICAL
    assert point.ceiling == {}


def test_rate_and_speed_follow_their_definitions(world):
    suite, source = world
    buffer = source.open("own", suite.clips[0], FrameRange(), Layout.YUV420).buffer
    codec = Shifting()
    payload = codec.encode(buffer, POINTS[1], wall_s=1).bitstream
    [point] = run(world, codec, rate_points=(POINTS[1],)).report.points
    header = Geometry(layout=Layout.YUV420, frames=3, height=48, width=64, fps=suite.clips[0].fps).pack()
    size = len(header) + len(payload)
    assert len(header) == 16 and point.bitstream_bytes == size
    assert point.bitstream_sha256 == hashlib.sha256(header + payload).hexdigest()
    assert point.bitrate_kbps == pytest.approx(size * 8 * 25 / (3 * 1000), rel=1e-12)
    assert point.bpp == pytest.approx(size * 8 / (64 * 48 * 3), rel=1e-12)
    assert point.compression_ratio == pytest.approx(64 * 48 * 1.5 * 3 / size, rel=1e-12)
    decoded = (buffer.array >> 2) << 2
    assert point.decoded_sha256 == hashlib.sha256(decoded.tobytes()).hexdigest()
    assert (point.encode_fps, point.decode_fps) == (1.5, 0.75)
    assert (point.load_s, point.setup_s, point.encode_s, point.decode_s) == (1.0, 0.5, 2.0, 4.0)
    assert point.peak_memory_bytes == 20 and point.peak_device_memory_bytes is None
    mse = np.mean((buffer.array[: 64 * 48].astype(float) - decoded[: 64 * 48]) ** 2)
    assert point.worst_frame["psnr_y"] <= 10 * np.log10(255**2 / mse) + 1e-9
    assert not point.lossless


def test_the_decoder_gets_the_geometry_of_the_header_and_no_header(world):
    seen = []

    class Watching(Shifting):
        def decode(self, bitstream, geometry, *, wall_s):
            seen.append((bitstream[0], geometry))
            return super().decode(bitstream, geometry, wall_s=wall_s)

    run(world, Watching(), rate_points=(POINTS[2],), frames=FrameRange(start=1, count=2))
    shift, geometry = seen[0]
    assert shift == 3
    assert (geometry.frames, geometry.height, geometry.width, geometry.fps) == (2, 48, 64, 25)


@pytest.mark.parametrize("layout", [Layout.RGB, Layout.BGR])
def test_an_rgb_codec_is_measured_in_the_clips_format_below_the_ceiling(world, layout):
    report = run(world, Shifting(layout), rate_points=({}, *POINTS)).report
    lossless, *lossy = report.points
    assert lossless.lossless and not any(point.lossless for point in lossy)
    assert lossless.missing == {"psnr_rgb": IDENTICAL, "apsnr_rgb": IDENTICAL}
    assert lossless.metrics == lossless.ceiling and {"psnr_y", "psnr_yuv", "ssim"} <= lossless.ceiling.keys()
    rates = [point.metrics["psnr_yuv"] for point in report.points]
    assert rates == sorted(rates, reverse=True)
    assert report.provenance["colour"] == {
        MOVING: {
            "clip": "yuv420p",
            "codec": layout.value,
            "matrix": "bt601",
            "range": "limited",
            "chroma_up": "replicate",
            "chroma_down": "box",
        }
    }


def test_a_picture_has_bits_per_pixel_only(world):
    [rgb] = run(world, Shifting(Layout.RGB), clips=("still",), rate_points=(POINTS[0],)).report.points
    assert rgb.fps is None and rgb.bitrate_kbps is None and rgb.bpp > 0
    assert {"psnr_rgb", "psnr_y", "ssim"} <= rgb.metrics.keys() and rgb.ceiling == {}
    report = run(world, Shifting(), clips=("still",)).report
    [yuv] = report.points
    assert yuv.lossless, "judged in the submission's own format"
    assert yuv.metrics["psnr_rgb"] == yuv.ceiling["psnr_rgb"] < 60
    assert report.rd["still"]["psnr_rgb"] == [[yuv.bpp, yuv.metrics["psnr_rgb"]]]


def test_the_report_has_curves_summary_and_where_it_comes_from(world):
    suite, _ = world
    report = run(world, Shifting(), clips=(), rate_points=POINTS, seed=7).report
    assert [(point.clip, point.rate_point) for point in report.points] == [
        (clip, index) for clip in (MOVING, "still") for index in range(4)
    ]
    assert len(report.rd[MOVING]["psnr_yuv"]) == 4
    assert [row["rate_point"] for row in report.summary] == [0, 1, 2, 3]
    assert report.self_reported["still/3"] == {"psnr": 99}
    stated = report.provenance
    assert stated["encoder_sha256"] == "e" * 64 and stated["decoder_sha256"] == "d" * 64
    assert stated["clips"] == {clip.name: clip.sha256 for clip in suite.clips}
    assert stated["seed"] == 7 and stated["device"] == {"name": "test"}
    assert stated["versions"]["numpy"] == np.__version__
    assert stated["second_decode"] == {"same": True, "decoded_sha256": report.points[0].decoded_sha256}
    assert report.flags == ()


def test_progress_comes_before_each_call(world):
    seen = []
    run(world, Shifting(), observe=seen.append, clips=(), rate_points=POINTS[:2])
    calls = [(step.done, step.stage, step.clip, step.rate_point) for step in seen if step.stage != "measure"]
    expected = []
    for clip in (MOVING, "still"):
        for index in range(2):
            expected += [(len(expected), "encode", clip, index), (len(expected) + 1, "decode", clip, index)]
    assert calls == [*expected, (8, "decode", MOVING, 0)], "the last one is the check that decoding can be repeated"
    assert {step.total for step in seen} == {8}
    assert all(step.eta_s is None for step in seen[:3])
    etas = [step.eta_s for step in seen[3:]]
    assert all(eta is not None for eta in etas) and etas[-1] == 0 < etas[0], etas


def test_a_decoder_that_gives_other_frames_is_flagged(world):
    report = run(world, Drifting()).report
    assert report.flags == ("nondeterministic_decoder",)
    assert report.provenance["second_decode"]["same"] is False
    failing = run(world, Failing(Stage.DECODE, at=2)).report
    assert failing.flags == ("nondeterministic_decoder",)
    assert failing.provenance["second_decode"] == {"same": False, "error": "it broke"}


@pytest.mark.parametrize("stage", [Stage.ENCODE, Stage.DECODE])
def test_a_failing_submission_keeps_the_points_before(world, stage):
    outcome = run(world, Failing(stage, at=3), rate_points=POINTS)
    assert isinstance(outcome, Failed)
    fault = outcome.fault
    assert (fault.stage, fault.clip, fault.rate_point, fault.message) == (stage, MOVING, 2, "it broke")
    assert fault.blame is Blame.CODE
    assert [point.rate_point for point in outcome.report.points] == [0, 1]
    assert len(outcome.report.rd[MOVING]["psnr_yuv"]) == 2 and len(outcome.report.summary) == 2
    assert run(world, Failing(stage)).report is None


def test_a_lost_worker_is_not_the_pipelines_to_judge(world):
    with pytest.raises(WorkerLost, match="gone"):
        run(world, Failing(Stage.DECODE, error=WorkerLost("gone")))


def test_what_breaks_in_measuring_is_the_platforms_fault(world, monkeypatch):
    def broken(*arguments):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(pipeline, "measure", broken)
    outcome = run(world, Shifting())
    assert outcome.fault.error_type is ErrorType.INTERNAL_ERROR and outcome.fault.blame is Blame.PLATFORM
    assert (outcome.fault.stage, outcome.fault.clip) == (Stage.MEASURE, MOVING)
    assert "ZeroDivisionError: oops" in outcome.fault.message


def test_an_unusable_clip_is_the_platforms_fault_and_named(world):
    suite, source = world
    wrong = replace(suite, clips=(replace(suite.clips[0], sha256="0" * 64),))
    outcome = pipeline.evaluate(replace(SPEC, rate_points=POINTS), wrong, Shifting(), source, lambda step: None, {})
    assert outcome.fault.error_type is ErrorType.DEPENDENCY_UNAVAILABLE
    assert outcome.fault.clip == MOVING and suite.clips[0].sha256 in outcome.fault.message
    assert "no clip nothing" in run(world, Shifting(), clips=("nothing",)).fault.message


def test_each_call_gets_what_is_left_of_the_time(world):
    codec = Shifting()
    run(world, codec, rate_points=POINTS[:2], limits=Limits(wall_s=10, job_s=20))
    assert codec.walls == [10, 10, 10, 9.75, 5], "an encode took 2.75 s and a decode 4.75, loading and setup included"


def test_a_jail_that_is_slow_to_start_costs_the_job_nothing(world):
    """Only what the submission's own code took is charged; the clock here moves by an hour at a look."""
    codec = Shifting()
    outcome = run(world, codec, clock=lambda: Ticks(3600), limits=Limits(wall_s=10, job_s=20))
    assert isinstance(outcome, Succeeded) and codec.walls == [10, 10, 10]


def test_the_jobs_own_limit_is_named_when_it_is_used_up(world):
    outcome = run(world, Shifting(), rate_points=POINTS, limits=Limits(wall_s=120, job_s=10))
    fault = outcome.fault
    assert fault.error_type is ErrorType.WALL_TIME_LIMIT and fault.blame is Blame.LIMIT
    assert (fault.stage, fault.rate_point, fault.limit, fault.used) == (Stage.DECODE, 1, 10, 10.25)
    assert "job_s allows 10 s" in fault.message
    assert len(outcome.report.points) == 1
    late = SubmissionError(Fault(error_type=ErrorType.WALL_TIME_LIMIT, message="", stage=Stage.DECODE, used=27.5))
    cut = run(world, Failing(Stage.DECODE, error=late), limits=Limits(wall_s=120, job_s=30)).fault
    assert "job_s" in cut.message and cut.used == 30.25, "the encode before it took 2.75 s"
    cut = Failing(Stage.DECODE, kind=ErrorType.WALL_TIME_LIMIT)
    assert run(world, cut, limits=Limits(wall_s=20, job_s=30)).fault.message == "it broke"


def test_a_ten_bit_sample_beyond_ten_bit_is_invalid_output(shared_clip, tmp_path):
    suite = add_suite(tmp_path, "own", [shared_clip("cosmos1650_1024x428_444p10.y4m")])

    class Beyond(Shifting):
        def decode(self, bitstream, geometry, *, wall_s):
            decoded = super().decode(bitstream, geometry, wall_s=wall_s)
            frames = decoded.frames.copy()
            frames[1] = 0x40
            return replace(decoded, frames=frames)

    source = ClipSource(tmp_path)
    outcome = pipeline.evaluate(SPEC, suite, Beyond(Layout.RGB), source, lambda step: None, {})
    assert (outcome.fault.error_type, outcome.fault.stage) == (ErrorType.INVALID_OUTPUT, Stage.DECODE)
    assert "10 bit end at 1023" in outcome.fault.message
    [point] = pipeline.evaluate(SPEC, suite, Shifting(Layout.RGB), source, lambda step: None, {}).report.points
    assert point.lossless and point.metrics["psnr_y"] > 60
    assert point.bitstream_bytes > HEADER.size
