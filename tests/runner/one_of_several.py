"""Trains the toy learner as one process of several. For a process of its own; see test_distributed.py."""

import dataclasses
import json
import sys

from toy_learner import CONFIG

from mbrl.core.errors import UserError
from mbrl.runner import hosts
from mbrl.runner.launch import Launch
from mbrl.runner.reporter import Silent
from mbrl.runner.stop import Interrupted
from mbrl.runner.train import train

hosts._PIECE = 1024  # bytes; so that arrays pass between the two in several pieces


def main(address, number, told):
    """Return the exit code; what process 0 is told decides what is trained."""
    launch = Launch(address, 2, int(number), join_limit=240.0)
    try:
        with hosts.join(launch, lambda: json.loads(told)) as together:
            config = dataclasses.replace(CONFIG, devices="all", **together.told["changes"])
            train(config, resume=together.told["resume"], reporter=together.reporter(Silent()))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except Interrupted as ended:
        print(ended, file=sys.stderr)
        return ended.exit_code
    return 0


sys.exit(main(*sys.argv[1:]))
