"""What a caller may do, and the session that a browser calls with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from app.domain.access import Caller, Scope
from app.domain.errors import Forbidden, Unauthenticated
from app.routers.answers import SessionOut
from app.routers.api import TheApi
from app.routers.responses import success
from app.routers.sessions import COOKIE, LASTS_S
from app.routers.strict import StrictRoute

router = APIRouter(tags=["access"], route_class=StrictRoute)


def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


def needs(scope: Scope) -> Callable[[Caller], Caller]:
    """A dependency that gives the caller, if it has that scope. Raises ``Unauthenticated``, ``Forbidden``."""

    def checked(caller: Anyone) -> Caller:
        if caller.may(scope):
            return caller
        if caller.by == "nothing":
            raise Unauthenticated("a key is needed: send it as `Authorization: Bearer KEY`")
        raise Forbidden(f"this needs a key with the scope {scope.value!r}; this one has: {_listed(caller)}")

    return checked


def _listed(caller: Caller) -> str:
    return ", ".join(sorted(scope.value for scope in caller.scopes)) or "none"


Anyone = Annotated[Caller, Depends(_caller)]
Submitter = Annotated[Caller, Depends(needs(Scope.SUBMIT))]
Reader = Annotated[Caller, Depends(needs(Scope.READ))]
Admin = Annotated[Caller, Depends(needs(Scope.ADMIN))]


class SignIn(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    key: str = Field(max_length=512)


_SESSION: dict[int | str, dict[str, Any]] = {200: success(SessionOut, "Who calls, and what it may do.")}


@router.post("/session", responses=_SESSION)
async def sign_in(request: Request, given: SignIn, api: TheApi) -> JSONResponse:
    """Begin a browser's session with a key; the cookie is same-site and out of scripts' reach."""
    caller = api.policy.of_key(given.key)
    answer = JSONResponse(_view(caller))
    answer.set_cookie(
        COOKIE,
        api.policy.sessions.begin(api.policy.key_id(given.key)),
        max_age=LASTS_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.get("/session", responses=_SESSION, response_model=None)
async def session(caller: Anyone) -> dict[str, Any]:
    """Who the service takes the caller for."""
    return _view(caller)


@router.delete("/session", responses=_SESSION)
async def sign_out() -> JSONResponse:
    answer = JSONResponse({"client": None, "scopes": []})
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


def _view(caller: Caller) -> dict[str, Any]:
    return {
        "client": None if caller.by == "nothing" and not caller.scopes else caller.client.name,
        "scopes": sorted(scope.value for scope in caller.scopes),
    }
