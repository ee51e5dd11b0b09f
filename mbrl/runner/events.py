"""TensorBoard's events, written by tensorboardX without its thread.

That thread dies with the first write that the disk refuses; nobody empties its queue then, and the run waits for ever
to put one more number into it.
"""

# Protocol buffers' modules make their classes when they are imported.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter


class Events:
    """The scalars of one run in a folder of event files."""

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """Describe the log; the first file comes with the first numbers.

        Args:
            folder: of the files; made where there is none.
            purge_step: from this step on TensorBoard shall hide what earlier files say; None hides nothing.
        """
        self._folder = folder
        self._purge_step = purge_step
        self._files = 0
        self._writer: RecordWriter | None = None

    def write(self, step: int, values: Mapping[str, float | int]) -> None:
        """Append numbers.

        Args:
            step: env steps.
            values: by name.

        Raises:
            OSError: the disk refused. What this file still lacked is lost; the next numbers begin another one.
        """
        scalars = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        with self._giving_up():
            event = Event(wall_time=time.time(), step=step, summary=Summary(value=scalars))
            self._open().write(event.SerializeToString())

    def flush(self) -> None:
        """Make what was written durable; raises OSError where the disk refuses."""
        with self._giving_up():
            if self._writer is not None:
                self._writer.flush()
                # Said once: in a later file it would hide what this one has of the run.
                self._purge_step = None

    def close(self) -> None:
        """Flush and end; raises OSError where the disk refuses."""
        with self._giving_up():
            if self._writer is not None:
                self._writer.close()
        self._writer = None

    def _open(self) -> RecordWriter:
        """Return the file that is written, a new one where there is none."""
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            # TensorBoard reads files in the order of their names; several may begin in one second.
            self._files += 1
            name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{self._files:04d}"
            self._writer = RecordWriter(str(self._folder / name))
            begins = [Event(wall_time=time.time(), file_version="brain.Event:2")]
            if self._purge_step is not None:
                start = SessionLog(status=SessionLog.START)
                begins.append(Event(wall_time=time.time(), step=self._purge_step, session_log=start))
            for event in begins:
                self._writer.write(event.SerializeToString())
        return self._writer

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Leave a file that the disk has refused to write: a record cut short hides all that follow it."""
        try:
            yield
        except OSError:
            abandoned, self._writer = self._writer, None
            if abandoned is not None:
                with contextlib.suppress(OSError):
                    abandoned.close()
            raise
