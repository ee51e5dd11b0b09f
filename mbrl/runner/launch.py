"""How a run is spread over hosts: said anew at each start, and no part of the experiment."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from mbrl.core.errors import UserError

AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Launch:
    """One training on several hosts: the same command on each, with a process_id of its own."""

    distributed: str = ""
    """Where process 0 listens, `HOST:PORT`, or `auto` where Slurm, Open MPI or the like says it; empty: one process."""
    num_processes: int | None = None
    """Processes in all, one a host; not with `auto`."""
    process_id: int | None = None
    """Which of them this is, from 0, which alone writes the run's folder; not with `auto`."""
    join_limit: float = 300.0
    """Seconds to wait for all of them to come."""
    stall_limit: float = 900.0
    """Seconds without progress (three times as many while it compiles) after which the run is given up as stuck."""


class Address(NamedTuple):
    """Where process 0 listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def check(launch: Launch) -> None:
    """Check the launch's own words against each other.

    Raises:
        UserError: one is missing, superfluous or out of its range.
    """
    if not launch.distributed:
        changed = [field.name for field in dataclasses.fields(Launch) if getattr(launch, field.name) != field.default]
        if changed:
            raise UserError(f"--{changed[0]} goes with --distributed, which is not given")
        return
    for name in ("join_limit", "stall_limit"):
        if not getattr(launch, name) > 0:
            raise UserError(f"--{name} must be positive, not {getattr(launch, name)}")
    given = [name for name in ("num_processes", "process_id") if getattr(launch, name) is not None]
    if launch.distributed == AUTO:
        if given:
            raise UserError(f"--{given[0]} goes with --distributed HOST:PORT, not auto")
        return
    address(launch.distributed)
    _check_numbers(launch, given)


def _check_numbers(launch: Launch, given: list[str]) -> None:
    """Check how many processes there are and which this is, both of which an address needs."""
    missing = [name for name in ("num_processes", "process_id") if name not in given]
    if missing:
        raise UserError(f"--distributed {launch.distributed} needs --{missing[0]} too")
    count, index = launch.num_processes or 0, launch.process_id or 0
    if count < 1:
        raise UserError(f"--num_processes must be at least 1, not {count}")
    if not 0 <= index < count:
        raise UserError(f"--process_id must be below --num_processes, {count}, and at least 0, not {index}")


def address(text: str) -> Address:
    """Return the address written as `HOST:PORT`, an IPv6 one as `[::1]:PORT`.

    Raises:
        UserError: it is none.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"--distributed is {text!r}, but must be auto or HOST:PORT, such as 10.0.0.1:7777")
    return Address(host, int(port))
