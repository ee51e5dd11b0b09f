"""All processes of a run come together, before JAX knows of them: who is there, and what is to be trained.

JAX waits silently for who does not come and ends a process that it cannot serve; here each of that is a sentence.
What is said are lines of JSON over TCP, unencrypted and to whoever asks: a network of one's own is needed, as for what
JAX itself exchanges.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from io import BufferedReader
from typing import Any, NamedTuple

from mbrl.core.errors import UserError
from mbrl.runner.launch import Address
from mbrl.version import __version__

_GREETING_SECONDS = 5.0  # in which whoever has connected says who it is
_AGAIN_SECONDS = 0.3  # between two attempts to connect
_LONGEST = 1 << 20  # bytes of a line
_GREETING_BYTES = 1 << 12
_TOLD = 80  # characters of what another process says of itself that are repeated


class Link(NamedTuple):
    """A connection to another process, from which lines are read."""

    socket: socket.socket
    lines: BufferedReader
    host: str  # the other's name, for people

    def say(self, **words: Any) -> None:
        """Send one line; raises OSError where nobody hears it."""
        self.socket.sendall(f"{json.dumps(words)}\n".encode())

    def hear(self, longest: int = _LONGEST) -> dict[str, Any] | None:
        """Return the next line's words; None where the other has gone, or speaks another language."""
        line = self.lines.readline(longest)
        try:
            words = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return words if isinstance(words, dict) else None

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


@contextlib.contextmanager
def listening(place: Address) -> Iterator[socket.socket]:
    """Listen as process 0.

    Raises:
        UserError: the port is taken, or the host is not this one.
    """
    reasons = {
        errno.EADDRINUSE: "its port is in use; choose another one",
        errno.EADDRNOTAVAIL: "that is no address of this host, where process 0 runs",
        errno.EACCES: "its port is for the system alone; choose one above 1023",
    }
    try:
        family, kind, _, _, where = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)[0]
        server = socket.socket(family, kind)
    except socket.gaierror as error:
        raise _unknown_host(place) from error
    with server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(where)
            server.listen()
        except OSError as error:
            raise UserError(f"cannot listen on {place}: {reasons.get(error.errno or 0, error.strerror)}") from error
        yield server


def receive(server: socket.socket, count: int, limit: float) -> dict[int, Link]:
    """Wait, as process 0, until all others have come.

    Args:
        server: listens.
        count: processes in all.
        limit: seconds to wait.

    Returns:
        the links to the others, by their number.

    Raises:
        UserError: one does not come, or does not fit; those that came are told.
    """
    links: dict[int, Link] = {}
    end = time.monotonic() + limit
    try:
        while len(links) < count - 1:
            came = _next(server, end)
            if came is None:
                absent = ", ".join(str(number) for number in range(1, count) if number not in links)
                raise UserError(
                    f"of {count} processes {len(links) + 1} came within {limit:g} s; still missing: {absent}"
                )
            link, words = came
            number = words["process"]
            twin = links.get(number)
            # One that does not fit is kept too, under a number that is nobody's, to be told so.
            links[-len(links) - 1 if twin else number] = link._replace(host=_short(words.get("host")))
            _check_fits(words, number, count, twin)
    except UserError as error:
        _refuse(links, error)
        raise
    return links


def tell(links: Mapping[int, Link], told: Mapping[str, Any]) -> None:
    """Tell, as process 0, all who have come what they need to know.

    Raises:
        UserError: one has gone meanwhile; the others are told.
    """
    try:
        for link in links.values():
            link.say(**told)
    except OSError as error:
        gone = UserError(f"a process left while the others were coming: {error.strerror}")
        _refuse(links, gone)
        raise gone from error


def _next(server: socket.socket, end: float) -> tuple[Link, dict[str, Any]] | None:
    """Return who comes next and its greeting; None where nobody does in time. Strangers are sent away."""
    while True:
        server.settimeout(max(end - time.monotonic(), 0.001))
        try:
            connection, _ = server.accept()
        except TimeoutError:
            return None
        except OSError:  # it has gone again already
            continue
        try:
            link = _link(connection, _GREETING_SECONDS)
        except OSError:
            connection.close()
            continue
        words = _heard(link, _GREETING_BYTES)
        if words is not None and type(words.get("process")) is int:
            return link, words
        link.close()  # none of ours: somebody looks for open ports


def _refuse(links: Mapping[int, Link], error: UserError) -> None:
    for link in links.values():
        with contextlib.suppress(OSError):
            link.say(refused=str(error))
        link.close()


def come(place: Address, number: int, count: int, limit: float) -> tuple[Link, dict[str, Any]]:
    """Go, as another process, to process 0, and return the link to it and what it tells.

    Raises:
        UserError: nothing answers within ``limit`` seconds, or process 0 refuses.
    """
    end = time.monotonic() + limit
    link = _link(_connected(place, end, limit), limit)._replace(host=place.host)
    greeting = {"process": number, "of": count, "host": socket.gethostname()} | _versions()
    try:
        link.say(**greeting)
        link.socket.settimeout(max(end - time.monotonic(), 0.001) + _GREETING_SECONDS)
        words = _heard(link)
    except OSError:
        words = None
    if words is None or not words.keys() & {"refused", "told"}:
        link.close()
        raise UserError(
            f"what answers at {place} is no process 0 that waits for others, or it has ended, or was still waiting "
            f"for some after {limit:g} s"
        )
    if "refused" in words:
        link.close()
        raise UserError(f"process 0 refused: {words['refused']}")
    return link, words


def free_port(host: str) -> int:
    """Return a port of this host that was free a moment ago."""
    family, kind, _, _, where = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.bind(where)
        return probe.getsockname()[1]


def _connected(place: Address, end: float, limit: float) -> socket.socket:
    while True:
        try:
            return socket.create_connection(place, timeout=max(end - time.monotonic(), 0.001))
        except socket.gaierror as error:
            raise _unknown_host(place) from error
        except OSError as error:
            if time.monotonic() + _AGAIN_SECONDS > end:
                raise UserError(
                    f"nothing answered at {place} for {limit:g} s ({error.strerror or error}); process 0 has to run "
                    "there"
                ) from error
            time.sleep(_AGAIN_SECONDS)


def _link(connection: socket.socket, limit: float) -> Link:
    connection.settimeout(limit)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Link(connection, connection.makefile("rb"), str(connection.getpeername()[0]))


def _heard(link: Link, longest: int = _LONGEST) -> dict[str, Any] | None:
    """Return the next line's words; None where none comes in time."""
    try:
        return link.hear(longest)
    except OSError:
        return None


def _short(said: Any) -> str:
    """Return what another process says of itself fit to be shown."""
    text = str(said)[:_TOLD]
    return text if text.isprintable() else repr(text)


def _check_fits(words: Mapping[str, Any], number: int, count: int, twin: Link | None) -> None:
    """Refuse a process that another launch has started, or another version of the software."""
    if words.get("of") != count:
        others = _short(words.get("of"))
        raise UserError(f"process {number} was started with --num_processes {others}, process 0 with {count}")
    if not 0 < number < count or twin is not None:
        raise UserError(f"two processes were started with --process_id {number}; each needs one of its own")
    for name, version in _versions().items():
        if words.get(name) != version:
            raise UserError(
                f"process {number} has {name} {_short(words.get(name))}, process 0 {version}; all need the same version"
            )


def _versions() -> dict[str, str]:
    return {"mbrl": __version__, "jax": metadata.version("jax")}


def _unknown_host(place: Address) -> UserError:
    return UserError(f"--distributed names the host {place.host!r}, which is not known here")
