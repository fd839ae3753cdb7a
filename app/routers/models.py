"""The JSON of the native routes: what a spec may hold, and how a job looks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator

from app.domain.errors import FieldError, InvalidSpec
from app.domain.evaluation import FrameRange
from app.domain.job import Limits
from app.engine.intake import Submission

MAX_CODE_BYTES = 256 * 1024
MAX_RATE_POINTS = 32
MAX_PARAMS_BYTES = 16 * 1024
MAX_DEPTH = 16
MAX_BATCH = 100
BATCH_SIZE = {"minItems": 1, "maxItems": MAX_BATCH}

CODE_NAMES = {
    "encoder": ("encoder", "encoding_agent_code", "encoding_code"),
    "decoder": ("decoder", "decoding_agent_code", "decoding_code"),
}

Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$")]
JobId = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.~-]*$")]
ExperimentId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 5.0 is as whole as 5, and languages with floats alone write it so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
SizeBytes = Annotated[Whole, Field(gt=0, lt=2**63)]
Label = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]

EXAMPLE = {
    "experiment_id": "evo-3-017",
    "encoder": "import zlib\n\ndef encode(frames, ctx):\n    return zlib.compress(frames.cpu().numpy().tobytes())\n",
    "decoder": (
        "import zlib\nimport numpy as np\n\ndef decode(bitstream, ctx):\n    clip = ctx.clip\n"
        "    flat = np.frombuffer(zlib.decompress(bitstream), np.uint8)\n"
        "    return flat.reshape(clip.frames, 3, clip.height, clip.width)\n"
    ),
    "device": "auto",
    "suite": "demo",
    "clips": ["carphone"],
    "frames": {"start": 0, "count": 8},
}


class FramesIn(BaseModel):
    """Which frames of each clip are used; without ``count`` all from ``start`` on."""

    model_config = ConfigDict(extra="forbid", strict=True)

    start: Whole = Field(0, ge=0, le=10_000_000)
    count: Whole | None = Field(None, ge=1, le=10_000_000)


class LimitsIn(BaseModel):
    """What the job may use; the defaults and maxima are at ``/limits``. Seconds (``_s``), bytes, or counts."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    wall_s: float | None = Field(None, gt=0, description="For each encode or decode call, loading the code included.")
    start_s: float | None = Field(None, gt=0, description="For loading the code and its `setup`.")
    cpu_s: float | None = Field(None, gt=0, description="Processor time of all threads of a call.")
    job_s: float | None = Field(None, gt=0, description="For all calls together.")
    memory_bytes: SizeBytes | None = Field(None, description="Private and shared memory, stacks and scratch together.")
    device_memory_bytes: SizeBytes | None = Field(None, description="Memory of the lane's device, where it has any.")
    output_bytes: SizeBytes | None = Field(None, description="The bitstream.")
    scratch_bytes: SizeBytes | None = Field(None, description="Files in the call's own folder.")
    log_bytes: SizeBytes | None = Field(None, description="How much of the output's end is kept.")
    threads: Whole | None = Field(None, ge=1, le=2**20)
    open_files: Whole | None = Field(None, ge=32, le=2**20)


class JobSpecIn(BaseModel):
    """The body of ``POST /jobs``. Only ``encoder`` and ``decoder`` are required."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, json_schema_extra={"examples": [EXAMPLE]}
    )

    encoder: str = Field(description="Python source; `encoding_agent_code` and `encoding_code` are other names for it.")
    decoder: str = Field(description="Python source; `decoding_agent_code` and `decoding_code` are other names for it.")
    experiment_id: ExperimentId | None = Field(None, description="Your name for it; the job's id if absent.")
    contract: Name = Field("auto", description="How the code is called; `auto` finds it from the functions' names.")
    device: Name = Field("auto", description="A lane's name, a device kind (`cpu`, `cuda`), or `auto`.")
    suite: Name = "demo"
    clips: list[Name] | None = Field(None, min_length=1, max_length=256, description="All clips if absent.")
    frames: FramesIn = Field(default_factory=FramesIn)
    rate_points: list[dict[str, Any]] = Field(
        default_factory=lambda: [{}],
        min_length=1,
        max_length=MAX_RATE_POINTS,
        description="`ctx.params` of each point.",
    )
    metrics: list[Name] = Field(default_factory=lambda: ["psnr", "ssim"], min_length=1, max_length=32)
    baselines: list[Name] | Literal["auto"] = Field(default_factory=list, description="Not offered yet.")
    targets: dict[str, Any] = Field(default_factory=dict, description="Not offered yet.")
    limits: LimitsIn = Field(default_factory=LimitsIn)
    priority: Whole = Field(0, ge=-10, le=10, description="Higher runs first.")
    seed: Whole = Field(0, ge=0, le=2**32 - 1)
    deliver_to: Name = Field("default", description="One of the operator's push targets.")
    labels: dict[Label, Label] = Field(
        default_factory=dict,
        max_length=32,
        json_schema_extra={"additionalProperties": False, "propertyNames": {"maxLength": 200}},
    )

    @model_validator(mode="before")
    @classmethod
    def _code_names(cls, body: Any) -> Any:
        return with_native_code_names(body) if isinstance(body, dict) else body

    @field_validator("encoder", "decoder")
    @classmethod
    def _code(cls, code: str) -> str:
        if not code.strip():
            raise ValueError("the code is empty")
        try:
            size = len(code.encode())
        except UnicodeEncodeError:
            raise ValueError("the code has half a surrogate pair, which is not Unicode") from None
        if size > MAX_CODE_BYTES:
            raise ValueError(f"the code has {size} bytes, over the limit of {MAX_CODE_BYTES}")
        return code

    @field_validator("rate_points")
    @classmethod
    def _params(cls, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for index, point in enumerate(points):
            try:
                check_params(point)
            except ValueError as error:
                raise ValueError(f"rate point {index}: {error}") from None
        return points

    @field_validator("baselines", "targets")
    @classmethod
    def _not_yet(cls, value: Any) -> Any:
        if value:
            raise ValueError("this version does not offer it yet")
        return value


def with_native_code_names(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body with its code under ``encoder`` and ``decoder``; of several names the first of ``CODE_NAMES`` wins."""
    named = dict(body)
    for native, names in CODE_NAMES.items():
        given = [name for name in names if name in named]
        codes = [named.pop(name) for name in given]
        if codes:
            named[native] = codes[0]
    return named


def given_code_names(body: Mapping[str, Any]) -> dict[str, str]:
    """Which name the caller used for each code field, so that errors can use it too."""
    return {native: next((name for name in names if name in body), native) for native, names in CODE_NAMES.items()}


def check_params(params: dict[str, Any]) -> None:
    """Raises ``ValueError`` for what cannot be kept exactly, or is too large for parameters."""
    try:
        size = len(json.dumps(params))
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from None
    if size > MAX_PARAMS_BYTES:
        raise ValueError(f"the parameters have {size} bytes, over the limit of {MAX_PARAMS_BYTES}")
    check_json(params)


def check_json(value: Any, depth: int = MAX_DEPTH) -> None:
    """Raises ``ValueError`` for what other JSON readers would not read back the same: NaN, long integers, depth.

    It is slow: bound the size first.
    """
    if depth == 0:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        for key, inner in value.items():
            check_json(key, depth - 1)
            check_json(inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            check_json(inner, depth - 1)
    elif isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise ValueError("a text has half a surrogate pair")
    elif isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError("NaN and infinity are not JSON")
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("a number has more than 63 bits")


def digest(value: Any) -> str:
    """The sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def limits_of(wanted: LimitsIn, default: Limits, largest: Limits) -> Limits:
    """The defaults with what was asked for. Raises ``InvalidSpec`` for what is over the operator's maximum."""
    asked = {name: value for name, value in wanted.model_dump().items() if value is not None}
    errors = [
        FieldError(field=f"limits.{name}", message=f"{value:g} is over this service's maximum of {top:g}")
        for name, value in asked.items()
        if value > (top := getattr(largest, name))
    ]
    if errors:
        raise InvalidSpec(errors)
    values = {name: asked.get(name, getattr(default, name)) for name in LimitsIn.model_fields}
    return Limits(**values)


def submission_of(
    spec: JobSpecIn, *, job_id: str | None, names: dict[str, str], default: Limits, largest: Limits
) -> Submission:
    return Submission(
        encoder=spec.encoder,
        decoder=spec.decoder,
        body_sha256=digest(spec.model_dump()),
        job_id=job_id,
        experiment_id=spec.experiment_id,
        contract=spec.contract,
        device=spec.device,
        suite=spec.suite,
        clips=None if spec.clips is None else tuple(spec.clips),
        frames=FrameRange(start=spec.frames.start, count=spec.frames.count),
        rate_points=tuple(spec.rate_points),
        metrics=tuple(dict.fromkeys(spec.metrics)),
        limits=limits_of(spec.limits, default, largest),
        priority=spec.priority,
        seed=spec.seed,
        deliver_to=spec.deliver_to,
        labels=dict(spec.labels),
        field_names=names,
    )


def rfc3339(at: float | None) -> str | None:
    """``2026-11-24T03:20:15.250000Z`` for seconds since the epoch."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")[:-6] + "Z"


class ProgressOut(BaseModel):
    done: int
    total: int
    stage: str
    clip: str | None
    rate_point: int | None
    eta_s: float | None


class DeliveryOut(BaseModel):
    state: Literal["none", "pending", "delivered", "dead"]
    target: str | None
    attempts: int
    next_at: str | None
    delivered_at: str | None
    last_error: str | None


class ErrorOut(BaseModel):
    message: str
    stage: str | None
    clip: str | None
    rate_point: int | None
    traceback: str | None
    limit: float | None
    used: float | None
    log_tail: str | None


class AttemptOut(BaseModel):
    """One try. ``ended`` says how it ended (finished, broke, released, orphaned, stopped), null while it runs."""

    number: int
    lane: str
    device_name: str
    started_at: str
    ended_at: str | None
    ended: str | None
    reason: str | None


class JobOut(BaseModel):
    """The job resource."""

    id: str
    experiment_id: str
    owner: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    cancel_requested: bool
    lane: str | None
    device: str | None
    device_name: str | None
    contract: str
    suite: str
    clips: list[str]
    priority: int
    labels: dict[str, str]
    queue_position: int | None
    attempt: int
    attempts: list[AttemptOut]
    created_at: str
    started_at: str | None
    finished_at: str | None
    progress: ProgressOut | None
    fault: Literal["code", "limit", "platform"] | None
    error_type: str | None
    error: ErrorOut | None
    delivery: DeliveryOut | None
    report: dict[str, Any] | None
    links: dict[str, str]


class PageOut(BaseModel):
    jobs: list[JobOut]
    cursor: str | None


class EventOut(BaseModel):
    """One change of a job's state; ``seq`` has no gaps."""

    seq: int
    at: str
    event: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    attempt: int
    actor: str
    reason: str | None


class EventsOut(BaseModel):
    job_id: str
    events: list[EventOut]


class BatchIn(BaseModel):
    """Up to 100 bodies of ``POST /jobs``."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"jobs": [EXAMPLE]}]})

    jobs: list[dict[str, Any]] = Field(json_schema_extra=BATCH_SIZE)


class FieldErrorOut(BaseModel):
    field: str
    message: str
    line: int | None = None
    column: int | None = None


class ProblemOut(BaseModel):
    """RFC 9457, with what Bitlane adds."""

    type: str
    title: str
    status: int
    detail: str
    error_type: str
    retryable: bool
    errors: list[FieldErrorOut] | None = None
    state: str | None = None


class BatchItemOut(BaseModel):
    """``status`` is what the spec alone would have been answered with: a job (202) or a problem."""

    status: int
    job: JobOut | None = None
    problem: ProblemOut | None = None


class BatchOut(BaseModel):
    results: list[BatchItemOut]
