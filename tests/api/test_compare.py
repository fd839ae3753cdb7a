"""Jobs side by side: what they share, and BD-rate against one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service import SLEEPER

EXAMPLE = Path(__file__).parents[2] / "examples" / "transform_codec"
POINTS = [{"quality": quality} for quality in (8, 16, 32, 64)]


@pytest.fixture(scope="module")
def measured(service):
    """The same codec, as it is and wasting bytes; on other frames; and one that has one point."""
    code = {side: (EXAMPLE / f"{side}.py").read_text() for side in ("encoder", "decoder")}
    wasteful = {
        "encoder": code["encoder"] + "\n_plain = encode\n\ndef encode(frames, ctx):\n"
        "    plain = _plain(frames, ctx)\n    return plain + bytes(len(plain))\n",
        "decoder": code["decoder"] + "\n_plain = decode\n\ndef decode(bitstream, ctx):\n"
        "    return _plain(bitstream[: len(bitstream) // 2], ctx)\n",
    }
    frames = {"start": 0, "count": 4}
    jobs = {
        "plain": service.run(**code, frames=frames, rate_points=POINTS),
        "wasteful": service.run(**wasteful, frames=frames, rate_points=POINTS),
        "elsewhere": service.run(**code, frames={"start": 5, "count": 4}, rate_points=POINTS),
        "single": service.run(**code, frames=frames),
    }
    assert {job["state"] for job in jobs.values()} == {"succeeded"}
    return {name: job["id"] for name, job in jobs.items()}


def test_twice_the_bytes_are_about_plus_a_hundred_percent(service, measured):
    both = [("job", measured["plain"]), ("job", measured["wasteful"])]
    found = service.http.get("/compare", params=both).raise_for_status().json()
    assert found["anchor"] == measured["plain"] and found["metric"] == "psnr_yuv" and found["clips"] == ["carphone"]
    result = found["bd_rate"][measured["wasteful"]]
    # The header of 16 bytes is there once.
    assert 95 < result["percent"] < 100 and result["per_clip"] == {"carphone": result["percent"]}
    assert result["overlap"] == pytest.approx(1) and result["refused"] == {}
    assert len(found["curves"][measured["plain"]]["carphone"]) == 4
    other = service.http.get("/compare", params=[*both, ("anchor", measured["wasteful"]), ("metric", "ssim")]).json()
    assert -52 < other["bd_rate"][measured["plain"]]["percent"] < -47


def test_what_cannot_be_compared_says_why(service, measured):
    few = service.http.get("/compare", params=[("job", measured["plain"]), ("job", measured["single"])]).json()
    assert few["bd_rate"][measured["single"]]["refused"] == {"carphone": "too_few_points"}
    assert few["bd_rate"][measured["single"]]["percent"] is None
    apart = service.http.get("/compare", params=[("job", measured["plain"]), ("job", measured["elsewhere"])]).json()
    assert apart["clips"] == [] and "range of frames" in apart["left_out"]["carphone"]
    assert apart["bd_rate"][measured["elsewhere"]]["percent"] is None


def test_questions_that_make_no_sense(service, measured):
    plain = ("job", measured["plain"])
    assert service.http.get("/compare").status_code == 422
    assert service.http.get("/compare", params=[("job", "none")]).status_code == 404
    wrong = service.http.get("/compare", params=[plain, ("anchor", "x265")])
    assert wrong.status_code == 422 and wrong.json()["errors"][0]["field"] == "anchor"
    wrong = service.http.get("/compare", params=[plain, ("metric", "beauty")])
    assert wrong.status_code == 422 and "psnr_yuv" in wrong.json()["detail"]
    running = service.submit(encoder=SLEEPER)
    assert service.http.get("/compare", params=[plain, ("job", running["id"])]).status_code == 409
    service.http.post(f"/jobs/{running['id']}/cancel")
