"""Who calls: a key, a session that was begun with one, the network of the old system's callers, or nobody.

It stands before everything else, so that nothing of a stranger's body is read. What a known caller may do is each
route's to say (``auth``).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http.cookies import CookieError, SimpleCookie
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import quote, urlsplit

from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.domain.access import LEGACY, LOCAL, NOBODY, Caller, Client, matches, split
from app.domain.access import Scope as Right
from app.domain.errors import StoreUnavailable, Unauthenticated
from app.ports import Clock, Keys
from app.routers.errors import of_error, problem
from app.routers.sessions import COOKIE, Sessions

_ADMIN = Caller(client=Client(name="admin"), scopes=frozenset({Right.ADMIN}), by="key")
# Nothing of these is secret, and each is needed before anybody can show a key.
PUBLIC = frozenset({"/livez", "/readyz", "/health", "/session", "/signin", "/experiment_result"})
_LEGACY = frozenset({"/experiment", "/experiments", "/status"})
_UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_PAGES = frozenset({"/", "/docs"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Who gets in. ``hosts`` are the names that this service answers for where no key is shown.

    ``open_to_loopback`` and ``open_to_all`` hold only while there is no key at all. ``behind_proxy`` says that the
    proxies before this service are named, so that a caller's address is its own.
    """

    keys: Keys
    sessions: Sessions
    clock: Clock
    hosts: frozenset[str]
    open_to_loopback: bool
    open_to_all: bool
    behind_proxy: bool
    legacy_networks: tuple[IPv4Network | IPv6Network, ...]
    admin_key: str | None = None

    @property
    def keys_required(self) -> bool:
        return self.admin_key is not None or self.keys.required()

    def of_key(self, token: str) -> Caller:
        """Raises ``Unauthenticated``."""
        if self.admin_key is not None and hmac.compare_digest(token.encode(), self.admin_key.encode()):
            return _ADMIN
        parts = split(token)
        key = self.keys.find(parts[0]) if parts else None
        if parts is None or key is None or not matches(key, parts[1]):
            raise Unauthenticated("this key is not known here")
        refusal = key.refusal(self.clock.now())
        if refusal is not None:
            raise Unauthenticated(refusal)
        return key.caller

    def key_id(self, token: str) -> str:
        """What a session remembers of a key that ``of_key`` took."""
        parts = split(token)
        return self._admin_id if parts is None or self.keys.find(parts[0]) is None else parts[0]

    @property
    def _admin_id(self) -> str:
        """Another one for another key, so that a session ends with the key that it was begun with."""
        return "admin-" + hashlib.sha256((self.admin_key or "").encode()).hexdigest()[:16]

    def of_session(self, cookie: str) -> Caller | None:
        """None where there is no session any more: it has ended, or its key has."""
        key_id = self.sessions.key_id(cookie)
        if key_id is None:
            return None
        if self.admin_key is not None and key_id == self._admin_id:
            return replace(_ADMIN, by="session")
        key = self.keys.find(key_id)
        if key is None or key.refusal(self.clock.now()) is not None:
            return None
        return replace(key.caller, by="session")


class Gate:
    """Leaves the caller in the scope's state, or answers 401, 403 or 421."""

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        if sum(name == b"host" for name, _ in scope["headers"]) > 1:
            # Whoever stands before this service may have gone by the other one (RFC 9112, 3.2).
            await problem(400, "there is more than one Host")(scope, receive, send)
            return
        try:
            caller = self._caller(scope, headers)
            refusal = self._refusal(scope, headers, caller)
        except (Unauthenticated, StoreUnavailable) as error:
            refusal = _refused(scope, headers, error)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope, headers: Mapping[str, str]) -> Caller:
        policy, path = self._policy, scope["path"]
        token = _token(headers)
        required = policy.keys_required
        if token is not None and required:
            return policy.of_key(token)
        if required and (cookie := _cookie(headers)) and (caller := policy.of_session(cookie)):
            return caller
        address = _address(scope)
        direct = policy.behind_proxy or not ("x-forwarded-for" in headers or "forwarded" in headers)
        local = policy.open_to_loopback and direct and address is not None and address.is_loopback
        if not required and (policy.open_to_all or local):
            return LOCAL
        if is_legacy(path) and direct and address and any(address in net for net in policy.legacy_networks):
            return LEGACY
        if path in PUBLIC or path.startswith("/static/"):
            return NOBODY
        raise Unauthenticated(
            "a key is needed: send it as `Authorization: Bearer KEY`; `bitlane keys add` makes one"
            if direct
            else "this call came through a proxy: a key is needed, or the proxy's address in BITLANE_TRUSTED_PROXIES"
        )

    def _refusal(self, scope: Scope, headers: Mapping[str, str], caller: Caller) -> Response | None:
        """A web page must not reach the service through its reader's browser.

        Without a key ``Host`` must be ours (a name that was turned to loopback is not), and so must ``Origin``. A
        session is the browser's, so what changes something must come from a page of this very service.
        """
        policy, origin, host = self._policy, headers.get("origin", ""), headers.get("host", "")
        if caller.by == "session":
            if scope["method"] in _UNSAFE and origin and _place(origin) != host:
                return problem(403, f"pages from {origin!r} may not call this service", error_type="wrong_origin")
        elif caller is LOCAL or caller is LEGACY:
            if policy.open_to_loopback and _name(f"//{host}") not in policy.hosts:
                return problem(421, f"this service does not answer for host {host!r}", error_type="wrong_host")
            same = not policy.open_to_loopback and _place(origin) == host
            if origin and not same and _name(origin) not in policy.hosts:
                return problem(403, f"pages from {origin!r} may not call this service", error_type="wrong_origin")
        return None


def _refused(scope: Scope, headers: Mapping[str, str], error: Unauthenticated | StoreUnavailable) -> Response:
    """In the words of whoever called: a page to sign in, the old system's error, or a problem."""
    told = of_error(error)
    page = scope["method"] == "GET" and scope["path"] in _PAGES and "text/html" in headers.get("accept", "")
    if page and isinstance(error, Unauthenticated):
        return RedirectResponse(f"/signin?next={quote(scope['path'])}", 303)
    if is_legacy(scope["path"]):
        kept = {name: told.headers[name] for name in ("www-authenticate", "retry-after") if name in told.headers}
        return JSONResponse({"error": str(error)}, told.status_code, headers=kept)
    return told


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _token(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key") or None


def _cookie(headers: Mapping[str, str]) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


def _address(scope: Scope) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address((scope.get("client") or ("", 0))[0])
    except ValueError:
        return None
    # On a socket for both families an IPv4 caller shows as an IPv6 address.
    return getattr(address, "ipv4_mapped", None) or address


def is_legacy(path: str) -> bool:
    return path in _LEGACY or (path.startswith("/experiment/") and path.endswith("/status"))


def _place(url: str) -> str | None:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return None


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
