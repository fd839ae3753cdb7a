"""Every setting of the service. This module is the only reader of the environment (``BITLANE_...``)."""

from __future__ import annotations

import dataclasses
import os
import socket
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, HttpUrl, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.domain.job import Limits
from app.domain.lanes import Lane, parse_lanes
from app.sandbox.offer import DEFAULT_MINIMUM, missing

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
LOOPBACK_NETWORKS = "127.0.0.0/8,::1/128"
GIB = 1024**3


def _lanes_text(text: str) -> str:
    if text != "auto":
        parse_lanes(text)
    return text


def _url(text: str) -> str:
    return str(HttpUrl(text)).rstrip("/")


class Settings(BaseSettings):
    """Each field is also a variable, ``BITLANE_`` and its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix="BITLANE_", env_ignore_empty=True, extra="ignore", validate_default=True
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    data: Path = Field(Path(".bitlane"), description="Folder for everything that is kept.")
    lanes: Annotated[str, AfterValidator(_lanes_text)] = Field(
        "auto",
        description="name=device*slots, comma-separated; `none` for an orchestrator; `auto` takes what is there.",
    )
    store: Literal["sqlite", "dynamodb"] = Field("sqlite", description="Where jobs and results are kept.")
    orchestrator: Annotated[str, AfterValidator(_url)] | None = Field(
        None, description="Base URL that finished results are pushed to."
    )
    targets: dict[str, Annotated[str, AfterValidator(_url)]] = Field(
        default_factory=dict, description="Further push targets that a job may name, as a JSON object of base URLs."
    )
    push_secret: SecretStr | None = Field(None, description="Secret that signs pushes and checks received ones.")
    worker_id: str = Field("", description="Name of this service in results; default: the host's name.")
    public_url: Annotated[str, AfterValidator(_url)] | None = Field(
        None, description="This service's URL as others reach it, for links in pushed results."
    )
    admin_key: SecretStr | None = Field(
        None, min_length=16, description="A key with every scope, for where `bitlane keys add` cannot be run."
    )
    trusted_network: bool = Field(
        False, description="Allow listening on another address than loopback without any key: whoever reaches it may."
    )
    trusted_proxies: Annotated[list[IPv4Network | IPv6Network], NoDecode] = Field(
        default_factory=list, description="Addresses of proxies whose `X-Forwarded-For` and `-Proto` are believed."
    )
    allowed_hosts: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="Further values of the Host header that are answered without a key."
    )
    legacy_networks: Annotated[list[IPv4Network | IPv6Network], NoDecode] = Field(
        LOOPBACK_NETWORKS, description="Networks from which the old routes and unsigned pushes need no key."
    )
    max_queued: int = Field(250_000, ge=1, description="How many jobs may be queued before the next gets 429.")
    max_queued_per_lane: int = Field(250_000, ge=1, description="How many of them may wait for one lane.")
    max_queued_per_client: int = Field(100_000, ge=1, description="How many of them may be one client's.")
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1024, description="Largest body of a request.")
    limits: dict[str, float] = Field(default_factory=dict, description="Default limits of a job, as a JSON object.")
    max_limits: dict[str, float] = Field(default_factory=dict, description="Largest limits a job may ask for.")
    jail_minimum: str = Field(
        DEFAULT_MINIMUM,
        description="Layers of isolation without which nothing is run: `a,b/c` is a, and b or c; `none` is no demand.",
    )
    disk_reserve_bytes: int = Field(
        64 * 1024 * 1024, ge=0, description="Free space under which no job is accepted: it is kept for results."
    )
    disk_warn_bytes: int = Field(GIB, ge=0, description="Free space under which `/readyz?verbose` warns.")
    grace_s: float = Field(
        10.0, ge=0, description="How long a stop waits for jobs that run; the rest runs again later."
    )
    lease_s: float = Field(15.0, gt=0, description="How long another host waits for a silent holder of the store.")
    dynamodb_table: str = Field("bitlane-jobs", description="Name of the DynamoDB table.")
    dynamodb_create: bool = Field(False, description="Create the DynamoDB table if it is not there.")
    dynamodb_endpoint: str | None = Field(None, description="URL of a DynamoDB server other than AWS's.")
    dynamodb_region: str | None = Field(None, description="AWS region; default: as usual for AWS.")

    @field_validator("allowed_hosts", "legacy_networks", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("jail_minimum")
    @classmethod
    def _layers(cls, value: str) -> str:
        missing(value, ())
        return value

    @field_validator("worker_id")
    @classmethod
    def _named(cls, value: str) -> str:
        return value or f"bitlane-{socket.gethostname()}"

    @field_validator("limits", "max_limits")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        known = {field.name for field in dataclasses.fields(Limits)}
        for name, number in value.items():
            if name not in known:
                raise ValueError(f"there is no limit {name!r}; there are: {', '.join(sorted(known))}")
            if number <= 0:
                raise ValueError(f"limit {name!r} must be above 0")
        return value

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        for name, default in dataclasses.asdict(self.default_limits).items():
            if default > getattr(self.largest_limits, name):
                raise ValueError(f"the default of limit {name!r} is over its maximum")
        return self

    @property
    def default_limits(self) -> Limits:
        return dataclasses.replace(Limits(), **_like(Limits(), self.limits))

    @property
    def largest_limits(self) -> Limits:
        largest = Limits(
            wall_s=3600.0,
            start_s=3600.0,
            cpu_s=86_400.0,
            job_s=86_400.0,
            memory_bytes=64 * GIB,
            device_memory_bytes=1024 * GIB,
            output_bytes=4 * GIB,
            scratch_bytes=16 * GIB,
            log_bytes=16 * 1024 * 1024,
            threads=4096,
            open_files=4096,
        )
        return dataclasses.replace(largest, **_like(largest, self.max_limits))

    @property
    def on_loopback(self) -> bool:
        return self.host in LOOPBACK_HOSTS

    @property
    def lane_list(self) -> tuple[Lane, ...]:
        return _machine_lanes() if self.lanes == "auto" else parse_lanes(self.lanes)

    @property
    def push_targets(self) -> dict[str, str]:
        targets = dict(self.targets)
        if self.orchestrator is not None:
            targets["default"] = self.orchestrator
        return targets

    @property
    def admin_secret(self) -> str | None:
        return None if self.admin_key is None else self.admin_key.get_secret_value()

    @property
    def secret(self) -> str | None:
        return None if self.push_secret is None else self.push_secret.get_secret_value()

    @property
    def own_url(self) -> str:
        if self.public_url is not None:
            return self.public_url
        everywhere = self.host in ("0.0.0.0", "::")
        host = socket.gethostname() if everywhere else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def _like(limits: Limits, numbers: dict[str, float]) -> dict[str, Any]:
    """The numbers in the types of the fields that they replace."""
    return {name: type(getattr(limits, name))(number) for name, number in numbers.items()}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def _machine_lanes() -> tuple[Lane, ...]:
    """A lane for each NVIDIA GPU that the machine shows, and a CPU lane with a slot for every two cores, at most 4."""
    gpus = sorted(int(path.name[6:]) for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit())
    lanes = [Lane(name=f"gpu{n}" if len(gpus) > 1 else "gpu", device=f"cuda:{n}") for n in range(len(gpus))]
    return (Lane(name="cpu", device="cpu", slots=max(1, min(4, cores() // 2))), *lanes)
