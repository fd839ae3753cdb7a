"""How a job is written down, for every store: one JSON document, with the report kept apart from it.

Floats are written in their shortest exact form, so that a value that was read again is the same bits. Whatever cannot
be read back is refused before it is written: one unreadable row would stop every later start.
"""

from __future__ import annotations

import binascii
import json
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from app.domain.errors import FieldError, InvalidSpec, StoreUnavailable
from app.domain.evaluation import Params, Report
from app.domain.job import Job

_JOB = TypeAdapter(Job)
_REPORT = TypeAdapter(Report)
_PAYLOAD: TypeAdapter[Params] = TypeAdapter(Params)


def dump_job(job: Job) -> str:
    """The job without its report. Raises ``InvalidSpec`` for a new job that could not be read back."""
    try:
        text = _JOB.dump_json(job, exclude={"report"})
        # What a client wrote is in the job from its first version on; later versions add only what we write.
        if job.version <= 1:
            _JOB.validate_json(text)
    except (PydanticSerializationError, ValidationError) as error:
        raise _unwritable("spec") from error
    return text.decode()


def dump_report(report: Report | None) -> str | None:
    """Raises ``InvalidSpec`` for a report that could not be read back."""
    if report is None:
        return None
    try:
        text = _REPORT.dump_json(report)
        _REPORT.validate_json(text)
    except (PydanticSerializationError, ValidationError) as error:
        raise _unwritable("report") from error
    return text.decode()


def dump_payload(payload: Params) -> str:
    """Raises ``InvalidSpec`` for a payload that could not be read back."""
    try:
        text = _PAYLOAD.dump_json(payload)
        _PAYLOAD.validate_json(text)
    except (PydanticSerializationError, ValidationError) as error:
        raise _unwritable("payload") from error
    return text.decode()


def load_job(document: str, report: str | None = None) -> Job:
    """Raises ``StoreUnavailable`` for text that is not a job's."""
    try:
        job = _JOB.validate_json(document)
        return job if report is None else replace(job, report=_REPORT.validate_json(report))
    except ValidationError as error:
        raise StoreUnavailable(
            f"a stored job cannot be read ({document[:80]}...): {error.errors()[0]['msg']}"
        ) from error


def load_payload(text: str) -> Params:
    return _PAYLOAD.validate_json(text)


def lane_of(job: Job) -> str | None:
    """The lane of the newest attempt."""
    return job.attempts[-1].lane if job.attempts else None


def encode_cursor(job: Job) -> str:
    """A cursor that asks for what follows this job in a list, newest first."""
    return urlsafe_b64encode(json.dumps([job.created_at, job.id]).encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[float, str]:
    """The ``created_at`` and the id in a cursor. Raises ``InvalidSpec`` naming ``cursor``."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        created_at, job_id = json.loads(urlsafe_b64decode(padded))
        if type(created_at) not in (int, float) or type(job_id) is not str or not math.isfinite(created_at):
            raise ValueError("not a time and an id")
        job_id.encode()
        return float(created_at), job_id
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error) as error:
        message = "this is not a cursor that a list of jobs gave"
        raise InvalidSpec([FieldError(field="cursor", message=message)]) from error


def _unwritable(field: str) -> InvalidSpec:
    message = (
        "it nests too deeply, has a number of too many digits, or has text that is not Unicode: it cannot be stored"
    )
    return InvalidSpec([FieldError(field=field, message=message)])
