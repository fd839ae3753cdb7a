"""Any job, with any values that its types allow, comes back from every store as it was, to the bit."""

from __future__ import annotations

import itertools
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.evaluation import Json
from app.domain.job import Job
from app.ports import Store

TEXT = st.text(max_size=12)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
LEAVES = {str: TEXT, int: st.integers(), float: FLOATS, bool: st.booleans(), NoneType: st.none(), Json: JSON}
numbers = itertools.count()


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type as the domain's dataclasses use it."""
    if kind in LEAVES:
        return LEAVES[kind]
    origin, inner = get_origin(kind), [values(arg) for arg in get_args(kind) if arg is not Ellipsis]
    if origin is UnionType:
        return st.one_of(inner)
    if origin is tuple:
        return st.lists(inner[0], max_size=2).map(tuple)
    if origin is list:
        return st.lists(inner[0], max_size=2)
    if origin is dict:
        return st.dictionaries(*inner, max_size=2)
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    assert is_dataclass(kind), kind
    hints = get_type_hints(kind)
    return st.builds(
        kind, **{field.name: st.deferred(lambda of=hints[field.name]: values(of)) for field in fields(kind)}
    )


# Times since the epoch: DynamoDB's numbers end at 1e-130 and 1e126.
JOBS = st.builds(replace, values(Job), created_at=st.floats(1e-6, 1e11), version=st.just(0))


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(drawn=JOBS)
async def test_any_job_comes_back_as_it_was(store: Store, drawn: Job) -> None:
    job = await store.add(replace(drawn, id=f"j{next(numbers)}"))
    # Equality does not tell -0.0 from 0.0, nor True from 1; text does.
    assert repr(await store.get(job.id)) == repr(job)
    job = await store.commit(replace(job, cancel_requested=not job.cancel_requested))
    found = await store.get(job.id)
    assert found == job and repr(found) == repr(job)
