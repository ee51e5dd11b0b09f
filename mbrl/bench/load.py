"""Sessions that act at a server over and over: `python -m mbrl.bench.load URL ...`, a process apart from the server's.

Standard library alone, so that what is measured is the server and not the client.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Load(NamedTuple):
    """What is asked of a server."""

    url: str
    sessions: int
    seconds: float
    rate: float = 0.0  # acts a second of each session; 0 for as many as it gets answers to


class Tally(NamedTuple):
    """What came of it."""

    milliseconds: list[float]  # of each act
    refused: list[int]  # statuses other than 200
    answers: dict[tuple[int, int], list[float]]  # the first that sessions of each kind had in each step
    strange: list[tuple[int, int]]  # the kind and step of those that had another


_KINDS = 16  # of sessions: what one is asked and its seed, so that those of a kind must have the same answers
_CLOSE = 1e-3  # two actions that are the same but for rounding


async def run(load: Load) -> dict[str, Any]:
    """Begin all sessions, let them act, end them, and return the figures, ready for JSON.

    Sessions of one kind see the same, in the same order and by the same seed: ``strange`` counts the answers in which
    they differ, as they would if one saw another's memory. A session's request is timed from when it is sent to when
    its answer is read; at a ``rate``, each is sent when it is due, or as soon as the one before was answered.
    """
    host, port = urlsplit(load.url).hostname or "127.0.0.1", urlsplit(load.url).port or 80
    reader, writer = await asyncio.open_connection(host, port)
    _, spec = await _ask(reader, writer, host, "GET", "/spec", b"")
    writer.close()
    await writer.wait_closed()
    asked = [{"observation": _observation(spec["observation"], number)} for number in range(_KINDS)]
    bodies = [json.dumps(one).encode() for one in asked]
    clients = [await _Client.begin(host, port, bodies, number % _KINDS) for number in range(load.sessions)]
    tally = Tally([], [], {}, [])
    begin = time.perf_counter()
    await asyncio.gather(*(client.act_until(begin + load.seconds, load.rate, tally) for client in clients))
    elapsed = time.perf_counter() - begin
    await asyncio.gather(*(client.end() for client in clients))
    return _figures(load, tally, elapsed)


class _Client:
    """One session on a connection of its own."""

    def __init__(self, streams: tuple[Any, Any], host: str, path: str, bodies: list[bytes], kind: int) -> None:
        self._streams, self._host, self._path, self._bodies, self._kind = streams, host, path, bodies, kind

    @classmethod
    async def begin(cls, host: str, port: int, bodies: list[bytes], kind: int) -> _Client:
        streams = await asyncio.open_connection(host, port)
        status, told = await _ask(*streams, host, "POST", "/sessions", json.dumps({"seed": kind}).encode())
        if status != 201:
            raise ConnectionError(f"the server began no session, but said {status}: {told}")
        return cls(streams, host, f"/sessions/{told['session']}", bodies, kind)

    async def act_until(self, end: float, rate: float, tally: Tally) -> None:
        # Sessions that all act at once and then all wait would be timed as a queue, not as a load.
        due = time.perf_counter() + (random.random() / rate if rate else 0.0)
        number = 0
        while (now := time.perf_counter()) < end:
            if due > now:
                await asyncio.sleep(min(due, end) - now)
                continue
            sent = time.perf_counter()
            # Each kind is shown the same in another order: an answer made of another's memory is another answer.
            body = self._bodies[(number + self._kind) % _KINDS]
            status, told = await _ask(*self._streams, self._host, "POST", f"{self._path}/act", body)
            tally.milliseconds.append((time.perf_counter() - sent) * 1e3)
            if status != 200:
                tally.refused.append(status)
            else:
                _compare(tally, (self._kind, number), _flat(told["action"]))
            number += 1
            due = max(due + 1 / rate, sent) if rate else 0.0

    async def end(self) -> None:
        await _ask(*self._streams, self._host, "DELETE", self._path, b"")
        self._streams[1].close()
        await self._streams[1].wait_closed()


def _compare(tally: Tally, at: tuple[int, int], action: list[float]) -> None:
    first = tally.answers.setdefault(at, action)
    # Not "further apart than": a NaN is neither close nor far.
    if len(first) != len(action) or not all(abs(a - b) <= _CLOSE for a, b in zip(first, action, strict=True)):
        tally.strange.append(at)


def _flat(action: Any) -> list[float]:
    return [number for part in action for number in _flat(part)] if isinstance(action, list) else [float(action)]


async def _ask(reader: Any, writer: Any, host: str, method: str, path: str, body: bytes) -> tuple[int, Any]:
    """Send a request on an open connection and return the answer's status and JSON."""
    named = {"Host": host, "Content-Type": "application/json", "Content-Length": len(body)}
    head = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    writer.write("\r\n".join([*head, "", ""]).encode() + body)
    answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    lines = answer.split("\r\n")
    length = next((int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")), 0)
    content = await reader.readexactly(length)
    return int(lines[0].split()[1]), json.loads(content) if content[:1] == b"{" else None


def _observation(spec: dict[str, Any], seed: int) -> Any:
    """Return noise of the shape that a server's /spec describes."""
    if "entries" in spec:
        return {name: _observation(entry, seed) for name, entry in spec["entries"].items()}
    noise = random.Random(seed)
    draw = (lambda: noise.randint(0, 1)) if spec["dtype"].startswith("uint") else (lambda: round(noise.gauss(0, 1), 4))
    return _nested(spec["shape"], draw)


def _nested(shape: list[int], draw: Any) -> Any:
    return [_nested(shape[1:], draw) for _ in range(shape[0])] if shape else draw()


def _figures(load: Load, tally: Tally, elapsed: float) -> dict[str, Any]:
    ordered = sorted(tally.milliseconds)
    at = lambda share: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None
    return {
        "sessions": load.sessions, "seconds": round(elapsed, 1), "acts": len(ordered), "refused": len(tally.refused),
        "strange": len(tally.strange),
        "acts_per_s": round(len(ordered) / elapsed, 1), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0),
    }


def _main() -> int:
    parser = argparse.ArgumentParser(description="let sessions act at a server and print how long the answers took")
    parser.add_argument("url")
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=0.0)
    told = parser.parse_args()
    sys.stdout.write(json.dumps(asyncio.run(run(Load(told.url, told.sessions, told.seconds, told.rate)))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
