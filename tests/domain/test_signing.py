from __future__ import annotations

import pytest

from app.domain.signing import sign, verify

BODY = b'{"a": 1}'
SIGNED = {"webhook_id": "msg_1", "timestamp": "1000", "body": BODY}


def test_a_known_answer():
    # printf 'msg_1.1000.{"a": 1}' | openssl dgst -sha256 -hmac secret -binary | base64
    assert sign("secret", "msg_1", 1000, BODY) == "v1,+0JvxIVSG5fo4Ys02oSjHqmdApcHEhnLUrrdqakFKNI="


@pytest.mark.parametrize("now", [700.0, 1000.0, 1300.0])
def test_a_fresh_signature_is_taken(now):
    assert verify("secret", signatures=sign("secret", "msg_1", 1000, BODY), now=now, **SIGNED) is None


def test_one_right_signature_among_several_is_enough():
    both = "v1,AAAA " + sign("secret", "msg_1", 1000, BODY)
    assert verify("secret", signatures=both, now=1000.0, **SIGNED) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"body": b'{"a": 2}'}, "does not match"),
        ({"webhook_id": "msg_2"}, "does not match"),
        ({"timestamp": "1001"}, "does not match"),
        ({"timestamp": "-5"}, "whole number"),
        ({"timestamp": "9" * 50}, "whole number"),
        ({"webhook_id": ""}, "not signed"),
        ({"signatures": ""}, "not signed"),
        ({"signatures": "v1,é"}, "does not match"),
        ({"now": 1300.5}, "five minutes"),
        ({"now": 699.0}, "five minutes"),
    ],
)
def test_everything_else_is_refused_with_the_reason(change, reason):
    arguments = {"signatures": sign("secret", "msg_1", 1000, BODY), "now": 1000.0, **SIGNED, **change}
    assert reason in (verify("secret", **arguments) or "")
