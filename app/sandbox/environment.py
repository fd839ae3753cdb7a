"""The environment that crosses into our child processes: an allow-list, so that no secret of the service does."""

from __future__ import annotations

import os

_KEPT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "HOME",
    "TMPDIR",
    "NUMBA_CACHE_DIR",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_MODULE_LOADING",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
)

# One thread each, so that no library starts a pool before a fork: a child of a process that ever ran a two-thread
# operation hangs in its first matmul.
_SINGLE_THREADED = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
}


def allowed() -> dict[str, str]:
    """What a child of the service may see of the service's environment."""
    environ = os.environ  # noqa: TID251 - not a setting: this is the filter between our environment and a child's
    return {name: environ[name] for name in _KEPT if name in environ}


def for_zygote() -> dict[str, str]:
    """The whole environment of a zygote, and so of its jails: same hashes, same thread counts, no home."""
    kept = allowed()
    for name in ("TMPDIR", "NUMBA_CACHE_DIR"):
        kept.pop(name, None)
    fixed = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent", "USER": "jail"}
    return {**kept, **_SINGLE_THREADED, **fixed}


def library_folders() -> list[str]:
    """Where the dynamic loader also looks, as the environment says."""
    folders = os.environ.get("LD_LIBRARY_PATH", "")  # noqa: TID251 - not a setting: the loader's own variable
    return [folder for folder in folders.split(":") if folder.startswith("/")]


def point_at(scratch: str) -> None:
    """In a jail: home and temporary files are the scratch directory."""
    os.environ.update(HOME=scratch, TMPDIR=scratch)  # noqa: TID251 - the jail's own environment, not a setting


def share_threads(threads: int) -> None:
    """In a jail: libraries that start their pools later use this many threads."""
    counts = {name: str(threads) for name in _SINGLE_THREADED if name.endswith("_NUM_THREADS")}
    os.environ.update(counts)  # noqa: TID251 - the jail's own environment, not a setting
