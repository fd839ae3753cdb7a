"""Signatures of pushes, as Standard Webhooks defines them (symmetric, version v1)."""

from __future__ import annotations

import base64
import hashlib
import hmac

TOLERANCE_S = 300.0


def sign(secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    """``v1,`` and the base64 HMAC-SHA256 of ``id.timestamp.body``."""
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()


def verify(secret: str, *, webhook_id: str, timestamp: str, signatures: str, body: bytes, now: float) -> str | None:
    """None if one of the space-separated signatures is right and fresh, else why the push is refused."""
    if not webhook_id or not timestamp or not signatures:
        return "the push is not signed: webhook-id, webhook-timestamp and webhook-signature are needed"
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return "webhook-timestamp is not a whole number of seconds"
    if abs(now - int(timestamp)) > TOLERANCE_S:
        return "webhook-timestamp is more than five minutes away from now"
    expected = sign(secret, webhook_id, int(timestamp), body).encode()
    given = [signature.encode() for signature in signatures.split(" ")]
    if any(hmac.compare_digest(expected, signature) for signature in given):
        return None
    return "webhook-signature does not match"
