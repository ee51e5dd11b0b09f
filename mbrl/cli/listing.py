"""`mbrl list`: environments, agents, experiments, suites, sweeps, planners, one name a line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mbrl.cli import experiments
from mbrl.core.errors import UserError, unknown

HELP = """usage: mbrl list {envs, agents, experiments, suites, sweeps, planners}

Lists one a line: the names --env takes, the names --agent takes, the files `mbrl train` takes, the names
`mbrl reproduce` takes, the names `mbrl sweep` takes, the names `mbrl eval --planner` takes."""


def run(argv: Sequence[str]) -> int:
    """List the names of one kind.

    Raises:
        UserError: there is no such kind.
    """
    if set(argv) & {"-h", "--help"}:
        print(HELP)
        return 0
    if not argv:
        raise UserError(f"`mbrl list` needs to know what to list: {', '.join(KINDS)}")
    for word in argv:
        if word not in KINDS:
            raise unknown("kind of list", word, KINDS)
    if len(argv) > 1:
        raise UserError(f"`mbrl list` lists one kind at a time, but was given {' '.join(argv)!r}")
    print("\n".join(KINDS[argv[0]]()))
    return 0


def _envs() -> Iterable[str]:
    from mbrl import envs

    return envs.names()


def _agents() -> Iterable[str]:
    from mbrl.agents import AGENTS

    return sorted(AGENTS)


def _experiments() -> Iterable[str]:
    return [str(file) for file in experiments.names().values()]


def _suites() -> Iterable[str]:
    from mbrl.cli import suites

    return suites.names()


def _sweeps() -> Iterable[str]:
    from mbrl.cli import sweeps

    return sweeps.names()


def _planners() -> Iterable[str]:
    from mbrl.planners import PLANNERS

    return sorted(PLANNERS)


KINDS: dict[str, Callable[[], Iterable[str]]] = {
    "envs": _envs, "agents": _agents, "experiments": _experiments, "suites": _suites,
    "sweeps": _sweeps, "planners": _planners,
}
