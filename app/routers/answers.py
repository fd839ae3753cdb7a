"""How the service tells of itself, and the words of the old system: the shapes of what is no job."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Mode = Literal["open", "paused", "draining"]


class LaneOut(BaseModel):
    name: str
    device: str
    kind: str
    device_name: str | None
    note: str | None
    slots: int
    working: int
    state: Literal["starting", "idle", "working", "paused", "failed"]
    mode: Mode
    reason: str | None
    depth: int
    wait_s: float | None
    processed: int
    jail: list[str]


class LanesOut(BaseModel):
    lanes: list[LaneOut]


class ClipOut(BaseModel):
    name: str
    width: int
    height: int
    frames: int
    fps: float
    pix_fmt: str
    bit_depth: int
    matrix: str
    full_range: bool
    scaler: str
    sha256: str


class SuiteOut(BaseModel):
    name: str
    description: str
    clips: list[ClipOut]


class SuitesOut(BaseModel):
    """``problems``: why a suite cannot be used, by its name."""

    suites: list[SuiteOut]
    problems: dict[str, str]


class LimitOut(BaseModel):
    default: float
    max: float


class LimitsOut(BaseModel):
    limits: dict[str, LimitOut]


class AliveOut(BaseModel):
    status: Literal["alive"]


class ReadyOut(BaseModel):
    """``reason`` and ``checks`` are there with ``verbose``."""

    status: Literal["ready", "unavailable"]
    reason: str | None = None
    checks: dict[str, Any] | None = None


class SessionOut(BaseModel):
    client: str | None
    scopes: list[str]


class DryRunClipOut(BaseModel):
    name: str
    frames: int
    width: int
    height: int


class DryRunOut(BaseModel):
    """What would happen."""

    valid: Literal[True]
    contract: str
    format: str
    lanes: list[str]
    suite: str
    clips: list[DryRunClipOut]
    rate_points: int
    limits: dict[str, float]
    pixels: int
    estimated_s: float | None


class BDRateOut(BaseModel):
    """``percent`` is the mean of ``per_clip``: below 0 is better than the anchor. ``refused``: why a clip has none."""

    percent: float | None
    per_clip: dict[str, float]
    overlap: float
    refused: dict[str, str]
    warnings: dict[str, list[str]]


class CompareOut(BaseModel):
    """``curves``: [rate, quality] by job and clip; the rate in kbit/s, of a still image in bits per pixel."""

    anchor: str
    metric: str
    clips: list[str]
    curves: dict[str, dict[str, list[list[float]]]]
    bd_rate: dict[str, BDRateOut]
    left_out: dict[str, str]


class AcceptedOut(BaseModel):
    status: Literal["accepted"]
    state: str
    job_id: str
    experiment_id: str
    worker_id: str
    queue_position: int | None
    message: str


class AboutOut(BaseModel):
    worker_id: str
    device: Literal["cuda", "cpu"]
    gpu_count: int
    jobs_processed: int
    timestamp: int


class StatusOut(AboutOut):
    is_processing: bool
    queue_length: int


class HealthOut(AboutOut):
    status: Literal["healthy"]


class UnhealthyOut(BaseModel):
    """What ``HealthOut`` tells is there too, unless the service is still waiting for what it needs to start."""

    model_config = ConfigDict(extra="allow")

    status: Literal["unhealthy"]
    reason: str


class ExperimentOut(BaseModel):
    """The result once there is one, as it was pushed or will be; until then only how far it is."""

    model_config = ConfigDict(extra="allow")

    experiment_id: str


class ExperimentsOut(BaseModel):
    active_experiments: list[str]
    completed_experiments: list[str]
    timestamp: int


class MissingOut(BaseModel):
    status: Literal["not_found"]
    experiment_id: str


class ErrorTextOut(BaseModel):
    """The old system's errors."""

    error: str


class ReceivedOut(BaseModel):
    status: Literal["received"]
    experiment_id: str
    repeated: bool
