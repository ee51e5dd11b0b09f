"""The `mbrl` command: finds the subcommand and turns what goes wrong into one sentence and an exit code.

Exit codes: 0 done; 1 the work failed; 2 bad input; 75 the processes of a run on several hosts
lost one another, and it can go on; 130 stopped by Ctrl-C and 143 by SIGTERM, after saving.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from mbrl.core import heap
from mbrl.core.errors import UserError, of_disk, of_memory, unknown


class Command(NamedTuple):
    """A subcommand; its module is imported only when it is called, so that help and mistakes are answered at once."""

    module: str  # holds ``run(argv) -> exit code``
    usage: str
    summary: str


COMMANDS = {
    "train": Command("mbrl.cli.train", "train [EXPERIMENT | RUN_DIR] [--KEY VALUE ...]",
                     "train an experiment, or go on with a stopped run"),
    "eval": Command("mbrl.cli.evaluate", "eval RUN_DIR [--episodes N] [--planner P] [--json]",
                    "roll out a trained agent over fresh episodes"),
    "report": Command("mbrl.cli.report", "report RUN_DIR", "make the run's report.html again"),
    "watch": Command("mbrl.cli.watch", "watch {RUN_DIR | ENV} [--out FILE] [--steps N] [--camera NAME]",
                     "film an agent beside its dream, or an environment"),
    "compare": Command("mbrl.cli.compare", "compare RUN_DIR... [--html FILE] [--scale FILE] [--json]",
                       "compare the scores of any set of runs"),
    "reproduce": Command("mbrl.cli.reproduce", "reproduce SUITE [--task T ...] [--seeds N] [--budget 100k]",
                         "run what is missing of a suite, beside published scores"),
    "sweep": Command("mbrl.cli.sweep", "sweep SWEEP [--backend {ray, local, slurm}]",
                     "search an experiment's settings"),
    "export": Command("mbrl.cli.export", "export RUN_DIR [--to policy.bin | torch] [--batch N | symbolic]",
                      "write the policy as a file that runs without mbrl"),
    "serve": Command("mbrl.cli.serve", "serve RUN_DIR [--port P] [--host H --token_file F]",
                     "answer act requests over HTTP"),
    "doctor": Command("mbrl.cli.doctor", "doctor [--json]", "say what this machine has, and what would go wrong"),
    "bench": Command("mbrl.cli.bench", "bench [PIECE] [--size S] [--json]", "time the pieces of a training run"),
    "list": Command("mbrl.cli.listing", "list {envs, agents, experiments, suites, sweeps, planners}",
                    "list what there is"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; bad input is one sentence on stderr and 2."""
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output (`| head`) has gone; what is left goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a name too long, a right that is lacking
        if not (said := of_disk(error)):
            raise
        return _refuse(said)
    except (MemoryError, RuntimeError) as error:  # RuntimeError: JAX's own of a device is one
        if not (said := of_memory(error)):
            raise
        _refuse(said)
        return 1


def _refuse(sentence: str) -> int:
    print(f"mbrl: {' '.join(sentence.split())}", file=sys.stderr)
    return 2


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in {"-h", "--help", "help"}:
        print(_help())
        return 0
    if argv[0] == "--version":
        from mbrl import __version__

        print(f"mbrl {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        raise unknown("command", argv[0], [*COMMANDS, "--help", "--version"])
    with heap.cycles_kept():  # a module and what it imports stay
        command = importlib.import_module(COMMANDS[argv[0]].module)
    return command.run(argv[1:])


def _help() -> str:
    width = max(len(command.usage) for command in COMMANDS.values())
    lines = [f"  mbrl {command.usage:<{width}}  {command.summary}" for command in COMMANDS.values()]
    return "\n".join([
        "usage: mbrl COMMAND ...", "",
        "Model-based reinforcement learning in JAX.", "",
        *lines, "",
        "`mbrl COMMAND --help` explains a command, `mbrl train --help` every setting of an experiment;",
        "`mbrl --version` says which version this is.",
    ])


if __name__ == "__main__":
    sys.exit(main())
