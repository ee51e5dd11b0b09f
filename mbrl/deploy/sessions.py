"""Sessions: who has which slot of the engine's table, how long it is kept, and requests gathered into batches."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from mbrl.deploy.engine import Answer, Request

_LOG = logging.getLogger(__name__)

Act = Callable[[Sequence[Request]], list[Answer]]


class RefusedError(Exception):
    """A request that is not done, with an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclasses.dataclass
class Session:
    """One client's; changed by the event loop alone."""

    slot: int
    seed: int
    used: float  # seconds of the clock at its last request
    step: int = 0
    busy: bool = False
    ended: bool = False


class Sessions:
    """The sessions that there are, the one used longest ago first."""

    def __init__(self, most: int, idle: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Make room for ``most``; one that was not used for ``idle`` seconds is ended."""
        self._idle, self._clock = idle, clock
        self._free = list(range(most - 1, -1, -1))
        self._by_name: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_name)

    def begin(self, seed: int | None) -> str:
        """Return the name of a new session; nobody can guess it.

        Raises:
            RefusedError: there is no room.
        """
        self.expire()
        if not self._free:
            raise RefusedError(429, f"there are {len(self)} sessions, as many as may be; end one, or come again later")
        name = secrets.token_urlsafe(24)
        session = Session(self._free.pop(), secrets.randbits(32) if seed is None else seed, self._clock())
        self._by_name[name] = session
        return name

    def get(self, name: str) -> Session:
        """Return a session, which counts as using it.

        Raises:
            RefusedError: there is none of that name.
        """
        self.expire()
        session = self._by_name.get(name)
        if session is None:
            sentence = "there is no such session: it was ended, or not used for long; POST /sessions for one"
            raise RefusedError(404, sentence)
        session.used = self._clock()
        self._by_name.move_to_end(name)
        return session

    def end(self, name: str) -> None:
        """End a session; raises ``RefusedError`` where there is none."""
        session = self.get(name)
        del self._by_name[name]
        session.ended = True
        self.release(session)

    def release(self, session: Session) -> None:
        """Give an ended session's slot away, but not while an act of it is being computed."""
        if session.ended and not session.busy:
            self._free.append(session.slot)

    def expire(self) -> None:
        """End the sessions that were not used for too long."""
        before = self._clock() - self._idle
        while self._by_name:
            name, session = next(iter(self._by_name.items()))
            if session.used > before:
                return
            del self._by_name[name]
            session.ended = True
            self.release(session)


class Batcher:
    """Gathers what is asked while a batch is computed, and computes that next; nobody waits for a batch to fill."""

    def __init__(self, act: Act, rows: int) -> None:
        """Compute up to ``rows`` requests at once by ``act``, in a thread of its own."""
        self._act, self._rows = act, rows
        self._waiting: list[tuple[Request, asyncio.Future[Answer]]] = []
        self._pool = ThreadPoolExecutor(1, "mbrl-act")
        self._task: asyncio.Task[None] | None = None
        self.broken = False  # the sessions' memory went with a step that failed: nothing can be computed any more

    async def act(self, request: Request) -> Answer:
        """Return the answer to a request; no two of one session may be under way."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await future

    def close(self) -> None:
        """Compute no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[: self._rows], self._waiting[self._rows :]
            for (_, future), answer in zip(batch, await self._compute([request for request, _ in batch]), strict=True):
                if future.done():  # its client has gone
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    async def _compute(self, batch: list[Request]) -> Sequence[Answer | Exception]:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._act, batch)
        except Exception as error:  # noqa: BLE001 - whatever it was, all who wait have to hear of it
            if not self.broken:  # once: the clients are not told why
                _LOG.exception("the device failed in a step")
            self.broken = True
            return [error] * len(batch)
