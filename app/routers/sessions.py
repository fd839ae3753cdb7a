"""A browser's session: it names the key that it was begun with, so that it ends when the key does."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from itsdangerous import BadData, URLSafeTimedSerializer

COOKIE = "bitlane_session"
LASTS_S = 7 * 24 * 3600


class Sessions:
    """``secret`` gives what sessions are signed with; it is asked when the first session begins."""

    def __init__(self, secret: Callable[[], str]) -> None:
        self._secret = secret

    @cached_property
    def _serializer(self) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self._secret(), salt="bitlane-session")

    def begin(self, key_id: str) -> str:
        """The cookie's value."""
        return str(self._serializer.dumps(key_id))

    def key_id(self, cookie: str) -> str | None:
        """The key of the session, None for a cookie that is not ours or too old."""
        try:
            key_id = self._serializer.loads(cookie, max_age=LASTS_S)
        except BadData:
            return None
        return key_id if isinstance(key_id, str) else None
