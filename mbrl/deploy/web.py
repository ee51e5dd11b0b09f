"""The server's pages: sessions over HTTP, JSON in and out."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mbrl.deploy import describe, requests
from mbrl.deploy.engine import Engine
from mbrl.deploy.engine import Request as Row
from mbrl.deploy.policy import Policy
from mbrl.deploy.sessions import Batcher, RefusedError, Sessions

_PATIENCE = 10.0  # seconds for a body to arrive
_SWEEP = 15.0  # seconds between looks for sessions that nobody uses

_BROKEN = "the device failed in a step and the sessions' memory is lost; start the server anew"

Handler = Callable[[Request], Awaitable[Response]]


def make_app(policy: Policy, engine: Engine, sessions: Sessions, token: str | None, *, local: bool) -> Starlette:
    """Return the ASGI application.

    POST /sessions begins a session, POST /sessions/NAME/act acts in it, DELETE /sessions/NAME ends it; GET /spec says
    what goes in and comes out, GET /health whether it is alive. What is refused has a status of 4xx, or 503
    once the device has failed, and `{"error": sentence}`.

    Args:
        policy: what ``engine`` acts by.
        engine: computes.
        sessions: as many as the engine has room for.
        token: what `Authorization: Bearer` must say, on every page but /health; None for none.
        local: answer only what was sent to this machine by one of its own names, so that no web page can have a browser
            on this machine ask in its stead.
    """
    batcher = Batcher(engine.act, engine.rows)
    pages = _Pages(policy, sessions, batcher)

    def page(handler: Handler, *, known: bool = True) -> Handler:
        async def answer(request: Request) -> Response:
            try:
                if local:
                    _check_host(request)
                if known and token is not None:
                    _check_token(request, token)
                return await handler(request)
            except RefusedError as refused:
                headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "10"}}.get(refused.status)
                return JSONResponse({"error": str(refused)}, refused.status, headers)

        return answer

    @asynccontextmanager
    async def alive(_app: Starlette) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(sessions))
        yield
        sweeper.cancel()
        batcher.close()

    routes = [
        Route("/sessions", page(pages.begin), methods=["POST"]),
        Route("/sessions/{name}/act", page(pages.act), methods=["POST"]),
        Route("/sessions/{name}", page(pages.end), methods=["DELETE"]),
        Route("/spec", page(pages.spec), methods=["GET"]),
        Route("/health", page(pages.health, known=False), methods=["GET"]),
    ]
    app = Starlette(routes=routes, lifespan=alive, exception_handlers={HTTPException: _unknown})
    # To a path with another slash Starlette would send a client on to wherever its Host header says.
    app.router.redirect_slashes = False
    return app


async def _unknown(_request: Request, error: Exception) -> Response:
    """Answer what no page is for."""
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class _Pages:
    """What each page does."""

    def __init__(self, policy: Policy, sessions: Sessions, batcher: Batcher) -> None:
        self._policy, self._sessions, self._batcher = policy, sessions, batcher
        self._most = requests.largest_body(policy.observation_spec)

    async def begin(self, request: Request) -> Response:
        seed = requests.seed_of(requests.parse(await _body(request, self._most)))
        return JSONResponse({"session": self._sessions.begin(seed)}, 201)

    async def act(self, request: Request) -> Response:
        value = requests.parse(await _body(request, self._most))
        # What follows up to the wait is one turn of the event loop: nobody else changes the session meanwhile.
        session = self._sessions.get(request.path_params["name"])
        asked = requests.act_of(value, self._policy.observation_spec)
        if session.busy:
            raise RefusedError(409, "this session is acting already; wait for the answer before the next request")
        first = asked.first or session.step == 0
        row = Row(session.slot, session.seed, session.step, first, asked.observation, asked.reward, asked.discount)
        if self._batcher.broken:
            raise RefusedError(503, _BROKEN)
        session.busy = True
        try:
            answer = await self._batcher.act(row)
        except Exception as error:
            raise RefusedError(503, _BROKEN) from error
        finally:
            session.busy = False
            self._sessions.release(session)
        if not answer.fine:
            raise RefusedError(422, "the policy has no finite action for this; the session is as it was before")
        session.step += 1
        return JSONResponse({"action": answer.action.tolist(), "step": session.step})

    async def end(self, request: Request) -> Response:
        self._sessions.end(request.path_params["name"])
        return Response(status_code=204)

    async def spec(self, _request: Request) -> Response:
        policy = self._policy
        return JSONResponse({
            "task": policy.task,
            "policy": policy.maker,
            "observation": describe.observation(policy.observation_spec, []),
            "action": describe.action(policy.action_spec, []),
            "largest_body": self._most,
        })

    async def health(self, _request: Request) -> Response:
        if self._batcher.broken:
            raise RefusedError(503, _BROKEN)
        return JSONResponse({"status": "ok"})


async def _body(request: Request, most: int) -> bytes:
    """Return a JSON body.

    Raises:
        RefusedError: it is larger than it may be, comes too slowly, or is not said to be JSON.
    """
    # A browser lets a page send JSON to another place only after asking that place, and this one says no.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedError(415, "the body must be sent as Content-Type: application/json")
    too_large = RefusedError(413, f"the body may have {most} bytes")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > most:
        raise too_large
    try:
        async with asyncio.timeout(_PATIENCE):
            content = await _bounded(request, most, too_large)
    except TimeoutError:
        raise RefusedError(408, f"the body did not arrive within {_PATIENCE:g} seconds") from None
    except ClientDisconnect:
        raise RefusedError(400, "the connection was closed before the body had arrived") from None
    return content


async def _bounded(request: Request, most: int, too_large: RefusedError) -> bytes:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise too_large
    return bytes(content)


def _check_token(request: Request, token: str) -> None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Compared in constant time: how long it takes says nothing of how much was right.
    right = hmac.compare_digest(given.strip().encode(), token.encode())
    if scheme.lower() != "bearer" or not right:
        raise RefusedError(401, "a token is needed: Authorization: Bearer TOKEN")


def _check_host(request: Request) -> None:
    host = request.headers.get("host", "")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(name).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise RefusedError(421, "this server answers on this machine's loopback alone, under localhost or its address")


async def _sweep(sessions: Sessions) -> None:
    while True:
        await asyncio.sleep(_SWEEP)
        sessions.expire()
