"""BD-rate against published values, an independent implementation, and curves that have none."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.evaluator.rd import LOW_OVERLAP_WARNING, NO_OVERLAP, NOT_MONOTONE, TOO_FEW_POINTS, bd_rate, mean_bd_rate
from tests.evaluator.reference_curves import AGAINST_VTM, E137, KODAK

LINE = [(100.0, 30.0), (200.0, 33.0), (400.0, 36.0), (800.0, 39.0)]


@pytest.mark.parametrize(("anchor", "tested", "expected"), E137)
def test_netflix_vectors(anchor, tested, expected):
    assert bd_rate(anchor, tested).percent == pytest.approx(expected * 100, abs=1e-9)


@pytest.mark.parametrize("codec", AGAINST_VTM)
def test_the_compressai_tables_against_vtm(codec):
    assert bd_rate(KODAK["vtm"], KODAK[codec]).percent == pytest.approx(AGAINST_VTM[codec], abs=2e-3)


def test_twice_the_rate_for_the_same_quality_is_plus_a_hundred_percent():
    result = bd_rate(LINE, [(2 * rate, quality) for rate, quality in LINE])
    assert result.percent == pytest.approx(100) and result.overlap == 1 and result.warnings == ()


@given(st.floats(0.01, 100), st.integers(0, 2**32))
def test_the_order_of_points_and_the_unit_of_rate_do_not_matter(factor, seed):
    shuffled = random.Random(seed).sample(LINE, len(LINE))
    other = [(rate * 1.3 + 5, quality + 0.4) for rate, quality in LINE]
    here = bd_rate(LINE, other).percent
    there = bd_rate(
        [(rate * factor, quality) for rate, quality in shuffled],
        [(rate * factor, quality) for rate, quality in other[::-1]],
    ).percent
    assert here == pytest.approx(there, rel=1e-9)


@pytest.mark.parametrize(
    ("tested", "reason"),
    [
        (LINE[:3], TOO_FEW_POINTS),
        ([], TOO_FEW_POINTS),
        ([(100.0, 30.0), (200.0, 29.0), (400.0, 36.0), (800.0, 39.0)], NOT_MONOTONE),
        ([(100.0, 30.0), (100.0, 31.0), (400.0, 36.0), (800.0, 39.0)], NOT_MONOTONE),
        ([(100.0, 30.0), (200.0, 30.0), (400.0, 36.0), (800.0, 39.0)], NOT_MONOTONE),
        ([(0.0, 30.0), *LINE[1:]], NOT_MONOTONE),
        ([(100.0, math.nan), *LINE[1:]], NOT_MONOTONE),
        ([*LINE[:3], (800.0, math.inf)], NOT_MONOTONE),
        ([(rate, quality + 9) for rate, quality in LINE], NO_OVERLAP),
        ([(rate, quality - 40) for rate, quality in LINE], NO_OVERLAP),
    ],
)
def test_what_has_no_value_says_why(tested, reason):
    for result in (bd_rate(LINE, tested), bd_rate(tested, LINE)):
        assert result.percent is None and result.refused == reason


def test_little_overlap_is_warned_about():
    result = bd_rate(LINE, [(rate, quality + 6) for rate, quality in LINE])
    assert result.overlap == pytest.approx(3 / 15) and result.warnings == (LOW_OVERLAP_WARNING,)
    assert result.percent is not None


def test_the_mean_is_of_the_clips_that_have_a_value():
    anchors = {"a": LINE, "b": LINE, "c": LINE, "only here": LINE}
    tested = {
        "a": [(2 * rate, quality) for rate, quality in LINE],
        "b": [(3 * rate, quality) for rate, quality in LINE],
        "c": LINE[:2],
        "only there": LINE,
    }
    result = mean_bd_rate(anchors, tested)
    assert result.percent == pytest.approx(150)
    assert result.per_clip == {"a": pytest.approx(100), "b": pytest.approx(200)}
    assert result.refused == {"c": TOO_FEW_POINTS}
    assert mean_bd_rate(anchors, {}).percent is None
