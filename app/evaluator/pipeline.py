"""The whole way of one attempt: clip -> encode -> bitstream -> decode -> measure -> Report."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import metadata

from app.domain.errors import ClipUnusable, SubmissionError, WorkerLost
from app.domain.evaluation import Clip, Json, Measurement, Params, Report, Suite, rd_curves, summarise
from app.domain.job import Blame, ErrorType, Fault, JobSpec, Stage
from app.evaluator.budget import Budget, Eta
from app.evaluator.clips.source import ClipSource, OpenClip
from app.evaluator.codec import HEADER, Codec, Decoded, Encoded, Geometry
from app.evaluator.measure import ceiling, describe_conversion, highest_sample, measure
from app.ports import Failed, Outcome, Progress, Succeeded

NONDETERMINISTIC = "nondeterministic_decoder"
# The decoder's source is large enough to hold a good part of the clips, which no jail can prevent.
LARGE_PACKAGE = "large_decoder_package"
_LARGE_PACKAGE_BYTES = 32 * 1024
_LARGE_PACKAGE_SHARE = 0.02
CLOCK_RESOLUTION_S = 1e-9
_VERSIONED = ("bitlane", "numpy", "numba", "av", "torch")


def evaluate(
    spec: JobSpec,
    suite: Suite,
    codec: Codec,
    source: ClipSource,
    observe: Callable[[Progress], None],
    provenance: dict[str, Json],
    clock: Callable[[], float] = time.perf_counter,
) -> Outcome:
    """Encode, decode and measure every clip at every rate point of the spec.

    ``provenance`` is what the caller knows about device, jail and versions; the report's is that and more. ``clock``
    gives seconds. A failure of the submission, of a clip or of the measuring is a ``Failed`` with what was measured
    until then; ``WorkerLost`` passes through.
    """
    attempt = _Attempt(spec, suite, codec, source, observe, provenance, clock)
    try:
        attempt.run()
    except SubmissionError as error:
        return attempt.failed(error.fault)
    except ClipUnusable as error:
        return attempt.failed(Fault(error_type=ErrorType.DEPENDENCY_UNAVAILABLE, message=str(error)))
    except WorkerLost:
        raise
    except Exception as error:  # noqa: BLE001  what breaks here is ours, and must never look like the submission's
        return attempt.failed(attempt.broken(error))
    return Succeeded(report=attempt.report())


@dataclass(kw_only=True, slots=True)
class _Point:
    """One clip at one rate point, on its way."""

    opened: OpenClip
    index: int
    params: Params
    bitstream: bytes = b""
    decoded_sha256: str = ""


@dataclass(kw_only=True, slots=True)
class _Findings:
    points: list[Measurement] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    self_reported: dict[str, Json] = field(default_factory=dict)
    provenance: dict[str, Json] = field(default_factory=dict)


_UNTIMED = {"fps": "a still image has no frame rate", "bitrate_kbps": "a still image has no bitrate"}


class _Attempt:
    def __init__(
        self,
        spec: JobSpec,
        suite: Suite,
        codec: Codec,
        source: ClipSource,
        observe: Callable[[Progress], None],
        provenance: dict[str, Json],
        clock: Callable[[], float],
    ) -> None:
        self._spec, self._suite, self._codec, self._source, self._observe = spec, suite, codec, source, observe
        clips = {clip.name: clip for clip in suite.clips}
        self._clips = [clips[name] for name in spec.clips or clips if name in clips]
        self._budget = Budget(spec.limits)
        self._eta = Eta([_pixels(clip, spec) for clip in self._clips for _ in spec.rate_points], clock)
        self._total = 2 * len(self._clips) * len(spec.rate_points)
        self._done = 0
        self._at: tuple[str | None, int | None] = (None, None)
        self._stage: Stage | None = None
        self._found = _Findings(provenance={**provenance, **_provenance(spec, suite, self._clips, provenance)})

    def run(self) -> None:
        if unknown := set(self._spec.clips) - {clip.name for clip in self._clips}:
            raise ClipUnusable(f"suite {self._suite.name!r} has no clip {', '.join(sorted(unknown))}")
        if not self._clips:
            raise ClipUnusable(f"suite {self._suite.name!r} has no clips")
        first: _Point | None = None
        for clip in self._clips:
            self._at = (clip.name, None)
            opened = self._source.open(self._suite.name, clip, self._spec.frames, self._codec.layout)
            colour = self._found.provenance.setdefault("colour", {})
            assert isinstance(colour, dict)
            colour[clip.name] = dict(describe_conversion(opened, self._codec.layout))
            for index, params in enumerate(self._spec.rate_points):
                self._at = (clip.name, index)
                point = _Point(opened=opened, index=index, params=params)
                self._found.points.append(self._measured(point))
                self._eta.point_done()
                first = first or point
        assert first is not None
        self._at = (first.opened.clip.name, first.index)
        self._repeat(first)

    def _measured(self, point: _Point) -> Measurement:
        encoded = self._encode(point)
        decoded = self._decode(point)
        self._done += 1
        self._tell(Stage.MEASURE)
        point.decoded_sha256 = _sha256(decoded)
        scores = measure(point.opened, decoded.frames, self._spec.metrics)
        clip, frames = point.opened.clip, point.opened.frames
        size = len(point.bitstream)
        return Measurement(
            clip=clip.name,
            rate_point=point.index,
            params=point.params,
            frames=frames,
            width=clip.width,
            height=clip.height,
            fps=None if clip.is_image else float(clip.fps),
            bitstream_bytes=size,
            bitrate_kbps=None if clip.is_image else float(size * 8 * clip.fps / (frames * 1000)),
            bpp=size * 8 / (clip.width * clip.height * frames),
            compression_ratio=clip.bytes_per_frame * frames / size,
            metrics=scores.metrics,
            lossless=bool((decoded.frames == point.opened.buffer.array).all()),
            missing={**scores.missing, **(_UNTIMED if clip.is_image else {})},
            worst_frame=scores.worst_frame,
            identical_frames=scores.identical_frames,
            load_s=encoded.load_s + decoded.load_s,
            setup_s=encoded.setup_s + decoded.setup_s,
            encode_s=encoded.encode_s,
            decode_s=decoded.decode_s,
            encode_fps=_fps(frames, encoded.encode_s),
            decode_fps=_fps(frames, decoded.decode_s),
            peak_memory_bytes=_peak(encoded.peak_memory_bytes, decoded.peak_memory_bytes),
            peak_device_memory_bytes=_peak(encoded.peak_device_memory_bytes, decoded.peak_device_memory_bytes),
            bitstream_sha256=hashlib.sha256(point.bitstream).hexdigest(),
            decoded_sha256=point.decoded_sha256,
            ceiling=ceiling(point.opened, self._spec.metrics),
        )

    def _encode(self, point: _Point) -> Encoded:
        self._tell(Stage.ENCODE)
        buffer = point.opened.buffer
        encoded = self._budget.call(
            Stage.ENCODE, lambda wall_s: self._codec.encode(buffer, point.params, wall_s=wall_s)
        )
        self._done += 1
        point.bitstream = buffer.geometry.pack() + encoded.bitstream
        if encoded.self_reported is not None:
            self._found.self_reported[f"{point.opened.clip.name}/{point.index}"] = encoded.self_reported
        return encoded

    def _decode(self, point: _Point) -> Decoded:
        self._tell(Stage.DECODE)
        header, bitstream = point.bitstream[: HEADER.size], point.bitstream[HEADER.size :]
        geometry = Geometry.unpack(header)
        decoded = self._budget.call(Stage.DECODE, lambda wall_s: self._codec.decode(bitstream, geometry, wall_s=wall_s))
        if decoded.frames.nbytes != geometry.nbytes:
            raise WorkerLost(f"the jail handed over {decoded.frames.nbytes} bytes of frames, not {geometry.nbytes}")
        top = (1 << geometry.bit_depth) - 1
        if geometry.bit_depth > 8 and (highest := highest_sample(decoded.frames, geometry)) > top:
            message = f"the decoder returned a sample of {highest}; {geometry.bit_depth} bit end at {top}"
            raise SubmissionError(Fault(error_type=ErrorType.INVALID_OUTPUT, message=message, stage=Stage.DECODE))
        return decoded

    def _repeat(self, first: _Point) -> None:
        """Decode the first point again: the same bitstream must give the same frames."""
        try:
            again = _sha256(self._decode(first))
        except SubmissionError as error:
            if error.fault.blame is Blame.LIMIT:
                # Out of time or memory says nothing about whether the frames would have been the same.
                self._found.provenance["second_decode"] = {"same": None, "skipped": error.fault.message}
                return
            self._found.flags.append(NONDETERMINISTIC)
            self._found.provenance["second_decode"] = {"same": False, "error": error.fault.message}
            return
        same = again == first.decoded_sha256
        if not same:
            self._found.flags.append(NONDETERMINISTIC)
        self._found.provenance["second_decode"] = {"same": same, "decoded_sha256": again}

    def _tell(self, stage: Stage) -> None:
        self._stage = stage
        clip, rate_point = self._at
        self._observe(
            Progress(
                done=self._done,
                total=self._total,
                stage=stage.value,
                clip=clip,
                rate_point=rate_point,
                eta_s=self._eta.left_s(),
            )
        )

    def broken(self, error: Exception) -> Fault:
        message = f"the evaluator broke: {type(error).__name__}: {error}"
        return Fault(error_type=ErrorType.INTERNAL_ERROR, message=message, stage=self._stage)

    def failed(self, fault: Fault) -> Failed:
        clip, rate_point = self._at
        located = replace(fault, clip=fault.clip or clip, rate_point=rate_point)
        return Failed(fault=located, report=self.report() if self._found.points else None)

    def _package_flags(self) -> tuple[str, ...]:
        size = self._found.provenance.get("decoder_package_bytes")
        clips = sum(_raw_bytes(clip, self._spec) for clip in self._clips)
        large = isinstance(size, int) and size > max(_LARGE_PACKAGE_BYTES, _LARGE_PACKAGE_SHARE * clips)
        return (LARGE_PACKAGE,) if large else ()

    def report(self) -> Report:
        found = self._found
        return Report(
            points=tuple(found.points),
            summary=summarise(found.points),
            flags=(*found.flags, *self._package_flags()),
            rd=rd_curves(found.points),
            self_reported=found.self_reported,
            provenance=found.provenance,
        )


def _raw_bytes(clip: Clip, spec: JobSpec) -> int:
    return clip.bytes_per_frame * spec.frames.length(clip.frames)


def _pixels(clip: Clip, spec: JobSpec) -> int:
    return clip.width * clip.height * spec.frames.length(clip.frames)


def _sha256(decoded: Decoded) -> str:
    return hashlib.sha256(decoded.frames.data).hexdigest()


def _fps(frames: int, seconds: float) -> float:
    return frames / max(seconds, CLOCK_RESOLUTION_S)


def _peak(encoder: int | None, decoder: int | None) -> int | None:
    return max((peak for peak in (encoder, decoder) if peak is not None), default=None)


def _provenance(spec: JobSpec, suite: Suite, clips: list[Clip], given: dict[str, Json]) -> dict[str, Json]:
    stated = given.get("versions")
    versions: dict[str, Json] = {}
    for name in _VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "encoder_sha256": spec.encoder_sha256,
        "decoder_sha256": spec.decoder_sha256,
        "suite": suite.name,
        "clips": {clip.name: clip.sha256 for clip in clips},
        "frames": {"start": spec.frames.start, "count": spec.frames.count},
        "seed": spec.seed,
        "versions": versions | (stated if isinstance(stated, dict) else {}),
    }
