"""A submission as the pipeline's ``Codec``: each call is one jail of the supervisor."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from app.domain.errors import SubmissionError, WorkerLost
from app.domain.evaluation import Params
from app.domain.job import ErrorType, Fault, Limits, Stage
from app.evaluator.codec import Decoded, Encoded, FrameBuffer, Geometry, Layout
from app.sandbox import memory
from app.sandbox.call import Interrupt
from app.sandbox.contracts import CONTRACTS
from app.sandbox.contracts import base as contract_base
from app.sandbox.request import CallLimits, Finished, JailFault, Request, SandboxLost
from app.sandbox.supervisor import Supervisor

_STAGES = {"load": Stage.LOAD, "setup": Stage.LOAD, "encode": Stage.ENCODE, "decode": Stage.DECODE}
_SIDES = {"encode": "encoder", "decode": "decoder"}


class JailedCodec:
    """Implements ``evaluator.codec.Codec``. Raises what that says, and whatever ``interrupt`` raises."""

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        encoder: str,
        decoder: str,
        contract: str,
        frame_format: str,
        limits: Limits,
        seed: int = 0,
        threads: int = 1,
        interrupt: Interrupt | None = None,
    ) -> None:
        self.layout = Layout(CONTRACTS[contract].layouts[frame_format])
        self._supervisor = supervisor
        self._code = {"encode": encoder, "decode": decoder}
        self._limits = limits
        self._interrupt = interrupt
        self._common: dict[str, Any] = {"contract": contract, "seed": seed, "threads": threads}

    def encode(self, frames: FrameBuffer, params: Params, *, wall_s: float) -> Encoded:
        geometry = frames.geometry
        done = self._call("encode", geometry, frames.fd, geometry.nbytes, wall_s, params)
        assert isinstance(done.output, bytes)
        return Encoded(
            bitstream=done.output,
            load_s=done.load_s,
            setup_s=done.setup_s,
            encode_s=done.call_s,
            peak_memory_bytes=done.peak_memory_bytes,
            peak_device_memory_bytes=done.peak_device_memory_bytes,
            self_reported=done.self_reported,
        )

    def decode(self, bitstream: bytes, geometry: Geometry, *, wall_s: float) -> Decoded:
        with memory.holding(bitstream, "bitstream") as fd:
            done = self._call("decode", geometry, fd, len(bitstream), wall_s, None)
        return Decoded(
            frames=np.frombuffer(done.output, np.uint8),
            load_s=done.load_s,
            setup_s=done.setup_s,
            decode_s=done.call_s,
            peak_memory_bytes=done.peak_memory_bytes,
            peak_device_memory_bytes=done.peak_device_memory_bytes,
        )

    def _call(
        self, side: str, geometry: Geometry, fd: int, size_bytes: int, wall_s: float, params: Params | None
    ) -> Finished:
        request = Request(
            side=side,
            code=self._code[side],
            geometry=_geometry(geometry),
            input_fd=fd,
            input_bytes=size_bytes,
            limits=_call_limits(self._limits, wall_s),
            params=params,
            **self._common,
        )
        try:
            return self._supervisor.call(request, self._interrupt)
        except SandboxLost as error:
            raise WorkerLost(str(error)) from error
        except JailFault as fault:
            raise SubmissionError(_fault(fault, side)) from fault


def _call_limits(limits: Limits, wall_s: float) -> CallLimits:
    """What the job may use, as one call may; ``wall_s`` is what is left for it."""
    named = {field.name: getattr(limits, field.name) for field in fields(CallLimits)}
    return CallLimits(**{**named, "wall_s": wall_s})


def _geometry(geometry: Geometry) -> contract_base.Geometry:
    return contract_base.Geometry(
        layout=geometry.layout.value,
        frames=geometry.frames,
        height=geometry.height,
        width=geometry.width,
        fps=(geometry.fps.numerator, geometry.fps.denominator),
        bit_depth=geometry.bit_depth,
    )


def _fault(fault: JailFault, side: str) -> Fault:
    before = {"load": f"loading the {_SIDES[side]}: ", "setup": f"setup of the {_SIDES[side]}: "}
    return Fault(
        error_type=ErrorType(fault.error_type),
        message=before.get(fault.phase, "") + fault.message,
        stage=_STAGES[fault.phase],
        traceback=fault.traceback,
        limit=fault.limit,
        used=fault.used,
        log_tail=fault.log_tail,
    )
