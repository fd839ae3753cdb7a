"""Files of the data folder that are cut, foreign, unreadable or no files: the start ends with a sentence that helps."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.api.test_access import bitlane, calling, new_key
from tests.service import BITLANE, Bitlane, free_port

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The data folder of a service that has jobs, a key, a session and a lane that is paused."""
    data = tmp_path_factory.mktemp("files") / "data"
    with Bitlane(data, lanes="cpu=cpu") as service:
        service.http.post("/lanes/cpu/pause").raise_for_status()
        for seed in range(40):
            service.submit(seed=seed)
        key = new_key(data, "alice", "--scope", "admin")
        with calling(service) as browser:
            browser.post("/session", json={"key": key}).raise_for_status()
    return data


@pytest.fixture
def data(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "data"))


def _bound_by_modes() -> None:
    """Root, too, may open only what the mode of a file allows."""
    libc = ctypes.CDLL(None)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def refusal(data: Path) -> str:
    """What ``bitlane serve`` ends with."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BITLANE_")}
    command = [str(BITLANE), "serve", "--port", str(free_port()), "--data", str(data), "--lanes", "cpu=cpu"]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_bound_by_modes,
    )
    try:
        told, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=30)
        raise AssertionError(f"it serves:\n{told}") from None
    assert process.returncode == 1, told
    assert "Traceback" not in told
    (sentence,) = [line for line in told.splitlines() if line.startswith("bitlane: ")]
    return sentence


def cut(share: float) -> Damage:
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


def write(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content)


def overwrite(start: int, content: bytes) -> Damage:
    def damage(path: Path) -> None:
        old = path.read_bytes()
        path.write_bytes(old[:start] + (content * (len(old) // len(content) + 1))[: len(old) - start])

    return damage


def run(statement: str) -> Damage:
    def damage(path: Path) -> None:
        with closing(sqlite3.connect(path)) as database:
            database.executescript(statement)

    return damage


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def link(target: str) -> Damage:
    def damage(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return damage


def foreign(path: Path) -> None:
    path.unlink()
    run("CREATE TABLE notes (text)")(path)


def unreadable(path: Path) -> None:
    path.chmod(0)


NOISE = bytes(range(256)) * 20
RESTORE, ELSEWHERE = "Restore it from a backup", "name another data folder"
DAMAGES: dict[str, tuple[str, Damage, str]] = {
    "database cut in half": ("bitlane.db", cut(0.5), RESTORE),
    "database cut to its head": ("bitlane.db", lambda path: os.truncate(path, 100), RESTORE),
    "database without its last page": (
        "bitlane.db",
        lambda path: os.truncate(path, path.stat().st_size - 4096),
        RESTORE,
    ),
    "database of zeros": ("bitlane.db", write(bytes(50_000)), RESTORE),
    "database of noise": ("bitlane.db", write(NOISE), RESTORE),
    "database with zeros behind its head": ("bitlane.db", overwrite(4096, b"\0"), RESTORE),
    "database with noise behind its head": ("bitlane.db", overwrite(8192, NOISE), RESTORE),
    "database of another program": ("bitlane.db", foreign, ELSEWHERE),
    "database with a job of half a document": ("bitlane.db", run("UPDATE jobs SET document = '{'"), RESTORE),
    "database with a job of bytes": ("bitlane.db", run("UPDATE jobs SET document = x'ff00' WHERE seq = 3"), RESTORE),
    "database without a table": ("bitlane.db", run("DROP TABLE received"), RESTORE),
    "database with another column": ("bitlane.db", run("ALTER TABLE jobs RENAME COLUMN lane TO road"), RESTORE),
    "database from the future": ("bitlane.db", run("PRAGMA user_version = 99"), "start the newer Bitlane"),
    "database that is a folder": ("bitlane.db", folder, ELSEWHERE),
    "database that may not be read": ("bitlane.db", unreadable, ELSEWHERE),
    "lock that is a folder": ("bitlane.lock", folder, ELSEWHERE),
    "lock that may not be read": ("bitlane.lock", unreadable, ELSEWHERE),
    "keys of noise": ("keys.json", write(NOISE), "add keys anew"),
    "keys of nothing": ("keys.json", write(b""), "add keys anew"),
    "keys cut in half": ("keys.json", cut(0.5), "add keys anew"),
    "keys of another shape": ("keys.json", write(b'{"a": {"scopes": ["admin"]}}'), "add keys anew"),
    "keys that are a folder": ("keys.json", folder, "add keys anew"),
    "keys that lead nowhere": ("keys.json", link("/nonexistent/keys"), "add keys anew"),
    "keys that may not be read": ("keys.json", unreadable, "add keys anew"),
    "lanes of noise": ("lanes.json", write(NOISE), "remove it"),
    "lanes of another shape": ("lanes.json", write(b'{"cpu": "sideways"}'), "remove it"),
    "session secret of noise": ("session.secret", write(NOISE), "move it away"),
    "session secret that is a folder": ("session.secret", folder, "move it away"),
    "session secret that may not be read": ("session.secret", unreadable, "move it away"),
    "blobs that are a file": (
        "blobs",
        lambda path: (shutil.rmtree(path), path.touch()),
        "a folder that this user may write",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_start_ends_with_the_file_and_what_to_do(data, name):
    file, damage, advice = DAMAGES[name]
    damage(data / file)
    sentence = refusal(data)
    assert str(data / file) in sentence and advice in sentence


def test_a_folder_that_cannot_be_written(data, tmp_path):
    for path in data.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    data.chmod(0o555)
    try:
        sentence = refusal(data)
        assert str(data) in sentence and ELSEWHERE in sentence
    finally:
        data.chmod(0o755)
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        sentence = refusal(place)
        assert str(place) in sentence and "name one that this user may write" in sentence


def test_keys_that_break_while_it_runs_let_nobody_in(data):
    key = new_key(data, "bob")
    with Bitlane(data, lanes="none", key=key) as service:
        kept = (data / "keys.json").read_bytes()
        for damage in (write(NOISE), write(b"{}x"), folder, link("/nonexistent/keys")):
            damage(data / "keys.json")
            with calling(service) as stranger:
                assert stranger.get("/jobs").status_code == service.http.get("/jobs").status_code == 503
                assert "keys.json" in service.http.get("/jobs").json()["detail"]
            (data / "keys.json").rmdir() if (data / "keys.json").is_dir() else (data / "keys.json").unlink()
            # Nor is a file that is gone an invitation.
            with calling(service) as stranger:
                assert stranger.get("/jobs").status_code == 401
            (data / "keys.json").write_bytes(kept)
            assert service.http.get("/jobs").status_code == 200
        assert bitlane("keys", "list", "--data", data).returncode == 0
        (data / "keys.json").write_bytes(NOISE)
        for command in (("list",), ("add", "carol"), ("revoke", "x")):
            refused = bitlane("keys", *command, "--data", data)
            assert refused.returncode == 1 and "keys.json" in refused.stderr and "Traceback" not in refused.stderr
        assert (data / "keys.json").read_bytes() == NOISE, "what cannot be read may still be mended by hand"


@pytest.mark.parametrize("content", [NOISE, b'{"epoch": 9999999999999999999999}'], ids=len)
def test_a_lock_of_noise_still_keeps_a_second_service_out(data, content):
    """The kernel holds the lock; the text in its file only tells who has it."""
    (data / "bitlane.lock").write_bytes(content)
    (data / "keys.json").unlink()
    with Bitlane(data, lanes="cpu=cpu") as service:
        assert len(service.http.get("/jobs?limit=100").json()["jobs"]) == 40
        service.submit()
        assert "the store is held by" in refusal(data)
        (data / "bitlane.lock").write_bytes(content)
        assert "the store is" in refusal(data)
        assert service.http.get("/jobs?limit=1").status_code == 200


def test_what_can_be_made_anew_is(data):
    """An empty database is a new one, an empty secret makes new sessions, and old writes are no part of it."""
    for name in ("bitlane.db", "session.secret"):
        (data / name).write_bytes(b"")
    (data / "keys.json").unlink()
    (data / "bitlane.db-wal").write_bytes(NOISE)
    with Bitlane(data, lanes="cpu=cpu") as service:
        assert service.http.get("/jobs").json()["jobs"] == []
        assert httpx.get(f"{service.url}/readyz", trust_env=False).status_code == 200
        service.submit()
