"""The server's process: where it listens, who may, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mbrl.core.errors import UserError
from mbrl.deploy.engine import Engine
from mbrl.deploy.policy import Policy
from mbrl.deploy.sessions import Sessions
from mbrl.deploy.web import make_app

_LEAST_TOKEN, _MOST_TOKEN = 16, 1024  # characters
_SILENCE = 75.0  # seconds without a new request, after which a connection is closed at the next look
_GRACE = 5  # seconds for requests that are under way when it is to end


class Settings(NamedTuple):
    """How a policy is served."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0 for any that is free
    token: str | None = None
    max_sessions: int = 1024
    idle: float = 600.0  # seconds after which a session that nobody uses is ended
    batch: int = 32  # rows that are computed at once


def check(settings: Settings) -> None:
    """Check the numbers, and that nobody else is let in without a token.

    Raises:
        UserError: one is out of its range, the host is unknown, or it needs a token.
    """
    for name, most in (("max_sessions", 2**20), ("batch", 4096)):
        if not 1 <= getattr(settings, name) <= most:
            raise UserError(f"--{name} is {getattr(settings, name)}, but must be from 1 to {most}")
    if not 0 <= settings.port < 2**16:
        raise UserError(f"--port is {settings.port}, but must be from 1 to {2**16 - 1}, or 0 for any that is free")
    if not 0 < settings.idle < float("inf"):
        raise UserError(f"--idle is {settings.idle}, but must be a positive number of seconds")
    if settings.token is None and not is_loopback(settings.host):
        raise UserError(f"--host {settings.host} lets other machines in, so a token is needed: --token_file FILE with "
                        f"at least {_LEAST_TOKEN} characters that nobody can guess")


def read_token(path: Path) -> str:
    """Return the token in a file.

    Raises:
        UserError: it cannot be read, is too short or too long, or others may read it too.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_TOKEN + 2).decode("ascii").strip()
    except OSError as error:
        raise UserError(f"token file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UserError(f"token file {path} must hold plain ASCII characters") from None
    if not _LEAST_TOKEN <= len(text) <= _MOST_TOKEN or not text.isprintable() or " " in text:
        raise UserError(f"token file {path} must hold one word of {_LEAST_TOKEN} to {_MOST_TOKEN} characters, for "
                        "example of: openssl rand -hex 32")
    if path.stat().st_mode & 0o077:
        raise UserError(f"token file {path} can be read by others on this machine: chmod 600 {path}")
    return text


def is_loopback(host: str) -> bool:
    """Return whether a host's every address reaches this machine alone.

    Raises:
        UserError: there is no such host.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host!r} is no address of this machine; take 127.0.0.1, or 0.0.0.0 for all") from error
    return all(ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)


@contextlib.contextmanager
def bound(settings: Settings) -> Iterator[socket.socket]:
    """Hold the port, so that it is known to be free before a policy is loaded.

    Raises:
        UserError: it is in use, or may not be taken.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind(address)
            # Only a listening socket keeps a second server out for certain.
            held.listen(2048)
        except OSError as error:
            raise UserError(f"port {settings.port} of {settings.host} cannot be listened on ({error.strerror}); choose "
                            "another --port, or 0 for any that is free") from error
        yield held


def serve(policy: Policy, settings: Settings, held: socket.socket, tell: Callable[[str], None]) -> int:
    """Answer until a signal, and return it; requests that are under way then are answered.

    Args:
        policy: from ``make_policy``.
        settings: that ``check`` has passed.
        held: from ``bound``.
        tell: is told the address as soon as requests are answered.
    """
    server, where = _make(policy, settings, held)
    return asyncio.run(server.until_signal(held, lambda: tell(where)))


@contextlib.contextmanager
def background(policy: Policy, settings: Settings) -> Iterator[str]:
    """Serve in a thread while the context lasts, and yield the address.

    Raises:
        UserError: as ``bound``.
    """
    with bound(settings) as held:
        server, where = _make(policy, settings, held)
        ready = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(server.until_signal(held, ready.set)), name="mbrl-serve")
        thread.start()
        try:
            ready.wait()
            yield where
        finally:
            server.should_exit = True
            thread.join()


def _make(policy: Policy, settings: Settings, held: socket.socket) -> tuple[_Server, str]:
    """Compile, and return what serves and its address."""
    _allow_files(settings.max_sessions)
    engine = Engine(policy, settings.max_sessions, min(settings.batch, settings.max_sessions))
    sessions = Sessions(settings.max_sessions, settings.idle)
    app: Any = make_app(policy, engine, sessions, settings.token, local=is_loopback(settings.host))
    # h11 bounds what a client may send before its body; connections are bounded here.
    config = uvicorn.Config(app, http=_Impatient, ws="none", log_level="warning", access_log=False, server_header=False,
                            limit_concurrency=2 * settings.max_sessions + 128, timeout_keep_alive=75,
                            timeout_graceful_shutdown=_GRACE, lifespan="on")
    host, port = held.getsockname()[:2]
    return _Server(config), f"http://{f'[{host}]' if ':' in host else host}:{port}"


class _Impatient(H11Protocol):
    """A connection that is closed when no request has come whole, but for its body, for long.

    uvicorn's own limit begins after an answer and ends with the next byte: who says nothing, or a byte now and then,
    could keep others out for ever.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._next_look = self.loop.call_later(_SILENCE, self._look, None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._next_look.cancel()
        super().connection_lost(exc)

    def _look(self, latest: Any) -> None:
        """Close, if ``latest`` is still the latest request and was answered; else look again later."""
        cycle: Any = self.cycle
        if cycle is latest and (cycle is None or cycle.response_complete):
            self.transport.close()
        elif not self.transport.is_closing():
            self._next_look = self.loop.call_later(_SILENCE, self._look, cycle)


class _Server(uvicorn.Server):
    """uvicorn's, which says when it is ready and ends at a signal without dying of it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ready: Callable[[], None] = lambda: None
        self._signals: list[int] = []

    async def until_signal(self, held: socket.socket, ready: Callable[[], None]) -> int:
        """Serve, and return the signal that ended it, or 0."""
        self._ready = ready
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(RuntimeError, ValueError):  # in another thread signals are not ours
                loop.add_signal_handler(number, self._stop, number)
        await self.serve(sockets=[held])
        return self._signals[0] if self._signals else 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._ready()

    def _stop(self, number: int) -> None:
        self.force_exit = bool(self._signals)
        self._signals.append(number)
        self.should_exit = True


def _allow_files(sessions: int) -> None:
    """Let the process have a connection for each session, as far as the machine allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * sessions + 512
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
