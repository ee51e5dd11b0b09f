"""What ties the processes of one run together beside JAX: each hears that the others live, and why one ends.

A collective operation waits for ever for a process that is stopped, and on some hardware for one that died. So each
process says every two seconds that it lives, over a connection of its own; where one falls silent or its connection
breaks, the others end with a sentence instead of waiting.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from mbrl.runner.muster import Link

LOST = 75  # the exit code where the processes lost one another: nothing is wrong with the run, it can go on
BEAT_SECONDS = 2.0
SILENCE_SECONDS = 30.0
_FLUSH_SECONDS = 2.0


def leave(code: int, sentence: str) -> None:
    """Say why and end this process at once, from any thread.

    An ordinary exit would wait: JAX's for processes that are gone, Python's for a thread that is stuck in JAX.
    """
    # A live view has hidden the terminal's cursor.
    shown = "\x1b[?25h\n" if sys.stderr.isatty() else ""
    with contextlib.suppress(OSError):
        os.write(2, f"{shown}mbrl: {' '.join(sentence.split())}\n".encode())
    # What was printed before shall be seen, but a reader that has stopped must not keep this process.
    flush = threading.Thread(target=_flush, daemon=True)
    flush.start()
    flush.join(_FLUSH_SECONDS)
    os._exit(code)


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()


class Bond:
    """The links of this process: of process 0 to all others, of each other to process 0."""

    def __init__(
        self,
        links: Mapping[int, Link],
        end: Callable[[int, str], Any] = leave,
        beat: float = BEAT_SECONDS,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        """Begin to listen and to tell.

        Args:
            links: by the other process's number.
            end: called with exit code and sentence, from a thread, when the run is over for a reason elsewhere.
            beat: seconds between two signs of life.
            silence: seconds without one after which a process counts as lost.
        """
        self._links = dict(links)
        self.alone = not links
        self._end = end
        self._once = threading.Lock()  # taken for good by the first reason to end
        self._mouth = threading.Lock()
        self._finished = {number: threading.Event() for number in links}
        self._over = threading.Event()
        # Beats of our own since each was last heard. Not seconds: where the whole machine stood still, nobody is lost.
        self._quiet = dict.fromkeys(links, 0)
        for number, link in self._links.items():
            link.socket.settimeout(None)
            threading.Thread(target=self._listen, args=(number,), daemon=True).start()
        threading.Thread(target=self._beat, args=(beat, silence), daemon=True).start()

    def fail(self, code: int, sentence: str) -> None:
        """Tell all others that the run is over, and why, and end."""
        if not self._once.acquire(blocking=False):  # it is over for another reason already
            return
        self._say(end=[code, sentence])
        self._end(code, sentence)

    def finish(self) -> None:
        """Say that this process is done, and wait until all are; one that is lost meanwhile ends this one."""
        first = 0 not in self._links
        if first:
            self._await()
        self._say(done=True)
        if not first:
            self._await()
        self._over.set()
        for link in self._links.values():
            link.close()

    def _await(self) -> None:
        for finished in self._finished.values():
            finished.wait()

    def _say(self, **words: Any) -> None:
        with self._mouth:
            for link in self._links.values():
                with contextlib.suppress(OSError):  # who is gone is noticed by who listens
                    link.say(**words)

    def _beat(self, beat: float, silence: float) -> None:
        """Say now and then that this process lives, and count how long the others have not."""
        while not self._over.wait(beat):
            self._say()
            for number in self._links:
                self._quiet[number] += 1
                if self._quiet[number] * beat > silence:
                    self._lost(number, f"has given no sign of life for {silence:.0f} s")

    def _listen(self, number: int) -> None:
        """Hear one process until it is done, or take what it says, or its silence, for the end."""
        link, finished = self._links[number], self._finished[number]
        with contextlib.suppress(OSError, ValueError):  # reset, or closed by ourselves
            while (words := link.hear()) is not None:
                self._quiet[number] = 0
                if "end" in words:
                    code, sentence = words["end"]
                    self.fail(int(code), str(sentence))
                    return
                if "done" in words:
                    finished.set()
        self._lost(number, "has died")

    def _lost(self, number: int, how: str) -> None:
        """End the run, unless that process was done, or all are."""
        if not self._over.is_set() and not self._finished[number].is_set():
            self.fail(
                LOST,
                f"process {number} on {self._links[number].host} {how}, so all others end; the run goes on from its "
                "last save, on any number of hosts: mbrl train RUN_DIR",
            )
