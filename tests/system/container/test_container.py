"""The image, for real: built, started without privileges, one job finished and both batteries played in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.battery.catalogue import ATTACKS
from tests.sandbox.integrity.every import CHEATS

HERE = Path(__file__).parent
PROFILES = (Path("/etc/containers/seccomp.json"), Path("/usr/share/containers/seccomp.json"))
NEEDED = ("podman", "runc", "buildah", "mmdebstrap")
MISSING = [tool for tool in NEEDED if shutil.which(tool) is None]
# Podman's profile lets everybody make namespaces, and those who have one mount in it; Docker's does not.
WITH_NAMESPACES = {
    *("unshare", "setns", "clone3", "mount", "umount", "umount2", "pivot_root", "mount_setattr", "move_mount"),
    *("open_tree", "fsopen", "fsmount", "fsconfig", "fspick"),
}
CLONE_NEW = 0x7E020000
WITHIN_S = 1500

pytestmark = [
    pytest.mark.soak,
    pytest.mark.system,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} (Debian: apt install {' '.join(NEEDED)})"),
]


@pytest.fixture(params=["default", "no-namespaces"])
def profile(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment that names a seccomp profile: podman's own, or one that refuses namespaces as Docker's does."""
    if request.param == "default":
        return {}
    found = [path for path in PROFILES if path.exists()]
    if not found:
        pytest.skip("podman's seccomp profile is not where it usually is")
    rules: dict[str, Any] = json.loads(found[0].read_text())
    for rule in rules["syscalls"]:
        if not rule.get("includes", {}).get("caps"):
            rule["names"] = [name for name in rule["names"] if name not in {*WITH_NAMESPACES, "clone"}]
    rules["syscalls"] = [rule for rule in rules["syscalls"] if rule["names"]]
    plain_clone = {"index": 0, "value": CLONE_NEW, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    rules["syscalls"].append({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [plain_clone]})
    path = tmp_path / "seccomp.json"
    path.write_text(json.dumps(rules))
    return {"SECCOMP": str(path)}


def script(name: str, *arguments: str, profile: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(HERE / name), *arguments]
    environment = {**os.environ, **profile}
    return subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False, env=environment)


def battery(user: str, name: str, profile: dict[str, str]) -> list[dict[str, Any]]:
    """A verdict for each attack or cheat, and nothing else said."""
    done = script("battery.sh", user, name, "--json", profile=profile)
    lines = done.stdout.partition("== battery\n")[2].splitlines()
    verdicts = [json.loads(line) for line in lines if line.startswith("{")]
    assert verdicts and len(verdicts) == len(lines), done.stdout[-2000:] + done.stderr[-2000:]
    return verdicts


def test_one_job_in_an_unprivileged_read_only_container(profile: dict[str, str]) -> None:
    done = script("run.sh", profile=profile)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1])
    assert all(found["held"].values()), found["held"]
    assert {"landlock", "seccomp", "single_use_process", "rlimits"} <= set(found["jail"]["layers"])
    assert not (profile and "pid_namespace" in found["jail"]["layers"])
    assert done.stdout.splitlines()[-1] == "exit code 0", "SIGTERM did not end the service in peace"


@pytest.mark.parametrize("user", ["user", "root"])
def test_no_attack_gets_through_in_a_container(user: str, profile: dict[str, str]) -> None:
    verdicts = battery(user, "battery", profile)
    assert len(verdicts) == len(ATTACKS)
    assert {one["name"]: one["evidence"] for one in verdicts if one["got_through"]} == {}


@pytest.mark.parametrize("user", ["user", "root"])
def test_no_cheat_gains_anything_in_a_container(user: str, profile: dict[str, str]) -> None:
    verdicts = battery(user, "integrity", profile)
    assert len(verdicts) == len(CHEATS)
    assert {one["name"]: one["wrong"] for one in verdicts if one["wrong"]} == {}
