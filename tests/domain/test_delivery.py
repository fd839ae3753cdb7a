from __future__ import annotations

import pytest

from app.domain.delivery import BACKOFF_S, Answer, DeliveryState, again, first, settle

PENDING = first("j", "default", 100.0)


def test_it_is_due_at_once():
    assert (PENDING.state, PENDING.next_at, PENDING.attempts) == (DeliveryState.PENDING, 100.0, 0)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_2xx_is_success(status):
    done = settle(PENDING, Answer(status=status), 101.0, 0.0)
    assert (done.state, done.next_at, done.delivered_at) == (DeliveryState.DELIVERED, None, 101.0)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
def test_other_4xx_are_dead_at_once(status):
    assert settle(PENDING, Answer(status=status), 101.0, 0.0).state is DeliveryState.DEAD


@pytest.mark.parametrize("status", [None, 301, 302, 408, 425, 429, 500, 503])
def test_all_else_is_tried_again(status):
    later = settle(PENDING, Answer(status=status, error="no"), 101.0, 0.0)
    assert (later.state, later.next_at) == (DeliveryState.PENDING, 106.0)


def test_the_schedule_ends_in_the_dead_letter():
    delivery, now, pauses = PENDING, 100.0, []
    while delivery.next_at is not None:
        now = delivery.next_at
        delivery = settle(delivery, Answer(status=None, error="refused"), now, 0.0)
        if delivery.next_at is not None:
            pauses.append(delivery.next_at - now)
    assert pauses == pytest.approx(BACKOFF_S)
    assert delivery.state is DeliveryState.DEAD
    assert delivery.attempts == 11
    assert delivery.last_error == "refused"


def test_jitter_lengthens_the_pause_by_a_tenth_at_most():
    assert settle(PENDING, Answer(status=500), 100.0, 1.0).next_at == pytest.approx(105.5)


def test_retry_after_is_honoured_but_not_for_ever():
    assert settle(PENDING, Answer(status=503, retry_after_s=60.0), 100.0, 0.0).next_at == 160.0
    assert settle(PENDING, Answer(status=503, retry_after_s=1.0), 100.0, 0.0).next_at == 105.0
    assert settle(PENDING, Answer(status=503, retry_after_s=1e12), 100.0, 0.0).next_at == 72_100.0


def test_sending_again_keeps_the_id_and_starts_the_schedule_afresh():
    dead = settle(PENDING, Answer(status=410), 101.0, 0.0)
    fresh = again(dead, "other", 200.0)
    assert (fresh.id, fresh.target, fresh.attempts, fresh.next_at) == (PENDING.id, "other", 0, 200.0)
