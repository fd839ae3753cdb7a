"""The image, for real: built, started without privileges, one job finished in it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run.sh")
NEEDED = ("podman", "runc", "buildah", "mmdebstrap")
MISSING = [tool for tool in NEEDED if shutil.which(tool) is None]


@pytest.mark.soak
@pytest.mark.system
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} (Debian: apt install {' '.join(NEEDED)})")
def test_one_job_in_an_unprivileged_read_only_container() -> None:
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1])
    assert all(found["held"].values()), found["held"]
    assert done.stdout.splitlines()[-1] == "exit code 0", "SIGTERM did not end the service in peace"
