from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from store_backends import Backend, make_backend

from app.adapters.stores.dynamodb import DynamoStore
from app.adapters.stores.sqlite import SqliteStore

KINDS = ("sqlite", "dynamodb-moto", "dynamodb-dynalite")


@pytest.fixture(autouse=True)
def aws_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials that no server checks; nothing of the user's own is read."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return make_backend(request.param, request, tmp_path / "data")


@pytest.fixture(params=KINDS[1:])
def dynamo(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return make_backend(request.param, request, tmp_path / "data")


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[SqliteStore | DynamoStore]:
    async with backend.store() as opened:
        yield opened
