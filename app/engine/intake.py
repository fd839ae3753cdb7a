"""What a submission must be before it is queued: every field checked, every default filled in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.domain.access import LOCAL, Client
from app.domain.errors import FieldError, InvalidSpec
from app.domain.evaluation import MAX_RAW_CLIP_BYTES, Clip, FrameRange, Json, Params, Suite
from app.domain.job import JobSpec, Limits
from app.domain.lanes import Lane, eligible_lanes
from app.ports import Catalogue, Inspection, Inspector

CODE_FIELDS = ("encoder", "decoder")


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A submission whose types are right; what its names mean has not been looked at.

    ``repeat_key`` is the caller's Idempotency-Key.
    """

    encoder: str
    decoder: str
    body_sha256: str
    client: Client = LOCAL.client
    job_id: str | None = None
    repeat_key: str | None = None
    experiment_id: str | None = None
    contract: str = "auto"
    device: str = "auto"
    suite: str = "demo"
    clips: tuple[str, ...] | None = None
    frames: FrameRange = field(default_factory=FrameRange)
    rate_points: tuple[Params, ...] = field(default_factory=lambda: ({},))
    metrics: tuple[str, ...] = ("psnr", "ssim")
    limits: Limits = field(default_factory=Limits)
    priority: int = 0
    seed: int = 0
    deliver_to: str = "default"
    labels: dict[str, str] = field(default_factory=dict)
    legacy: dict[str, Json] | None = None
    field_names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The spec with what was found, the lanes that may run it and the clips that it runs on.

    ``pixels`` is what the work grows with: luma samples of all frames at all rate points.
    """

    spec: JobSpec
    lanes: frozenset[str]
    clips: tuple[Clip, ...]
    pixels: int


class Intake:
    def __init__(
        self, *, inspector: Inspector, catalogue: Catalogue, lanes: Sequence[Lane], metrics: frozenset[str]
    ) -> None:
        self._inspector = inspector
        self._catalogue = catalogue
        self._lanes = lanes
        self._metrics = metrics

    async def check(self, submission: Submission) -> Checked:
        """Raises ``InvalidSpec`` naming every wrong field at once."""
        errors: list[FieldError] = []
        lanes: frozenset[str] = frozenset()
        try:
            lanes = eligible_lanes(submission.device, self._lanes)
        except InvalidSpec as refused:
            errors += refused.errors
        clips = self._clips(submission, errors)
        self._check_metrics(submission, errors)
        found = await self._inspector.inspect(submission.encoder, submission.decoder, submission.contract)
        names = submission.field_names
        errors += [
            FieldError(field=names.get(e.field, e.field), message=e.message, line=e.line, column=e.column)
            for e in found.errors
        ]
        if errors:
            raise InvalidSpec(errors)
        spec = _spec(submission, found, clips)
        pixels = sum(clip.width * clip.height * spec.frames.length(clip.frames) for clip in clips)
        return Checked(spec=spec, lanes=lanes, clips=clips, pixels=pixels * len(spec.rate_points))

    def _clips(self, submission: Submission, errors: list[FieldError]) -> tuple[Clip, ...]:
        suites = {suite.name: suite for suite in self._catalogue.suites()}
        suite = suites.get(submission.suite)
        if suite is None:
            offered = ", ".join(sorted(suites))
            errors.append(FieldError(field="suite", message=f"no suite {submission.suite!r}; there are: {offered}"))
            return ()
        clips = _named_clips(suite, submission.clips, errors)
        for clip in clips:
            frames = submission.frames.length(clip.frames)
            wanted = submission.frames.count
            if frames == 0 or (wanted is not None and frames < wanted):
                message = f"clip {clip.name!r} has {clip.frames} frames, too few for this range"
                errors.append(FieldError(field="frames", message=message))
            elif frames * clip.rgb_bytes_per_frame > MAX_RAW_CLIP_BYTES:
                message = (
                    f"{frames} frames of clip {clip.name!r} are {frames * clip.rgb_bytes_per_frame} raw bytes, "
                    f"over the limit of {MAX_RAW_CLIP_BYTES}; ask for fewer frames"
                )
                errors.append(FieldError(field="frames", message=message))
        return clips

    def _check_metrics(self, submission: Submission, errors: list[FieldError]) -> None:
        for index, metric in enumerate(submission.metrics):
            if metric not in self._metrics:
                offered = ", ".join(sorted(self._metrics))
                message = f"no metric {metric!r}; there are: {offered}"
                errors.append(FieldError(field=f"metrics.{index}", message=message))


def _named_clips(suite: Suite, wanted: tuple[str, ...] | None, errors: list[FieldError]) -> tuple[Clip, ...]:
    if wanted is None:
        return suite.clips
    clips = {clip.name: clip for clip in suite.clips}
    for index, name in enumerate(wanted):
        if name not in clips:
            message = f"suite {suite.name!r} has no clip {name!r}; it has: {', '.join(clips)}"
            errors.append(FieldError(field=f"clips.{index}", message=message))
        elif name in wanted[:index]:
            errors.append(FieldError(field=f"clips.{index}", message=f"clip {name!r} is named twice"))
    return tuple(clips[name] for name in wanted if name in clips)


def _spec(submission: Submission, found: Inspection, clips: tuple[Clip, ...]) -> JobSpec:
    # Where reading the code took too long the contract is still open: the job is accepted and fails while loading.
    contract = found.contract or ("native" if submission.contract == "auto" else submission.contract)
    return JobSpec(
        encoder_sha256=hashlib.sha256(submission.encoder.encode()).hexdigest(),
        decoder_sha256=hashlib.sha256(submission.decoder.encode()).hexdigest(),
        contract=contract,
        frame_format=found.frame_format,
        body_sha256=submission.body_sha256,
        device=submission.device,
        suite=submission.suite,
        clips=tuple(clip.name for clip in clips),
        frames=submission.frames,
        rate_points=submission.rate_points,
        metrics=submission.metrics,
        limits=submission.limits,
        priority=submission.priority,
        seed=submission.seed,
        labels=submission.labels,
        legacy=submission.legacy,
    )
