"""`mbrl doctor`: what this machine has, and what would go wrong on it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from mbrl.cli import compilation, parsing


@dataclasses.dataclass(frozen=True)
class DoctorArguments:
    """Say what this machine has, which devices and extras work, and what would go wrong, one line each.

    Exit code 1 if something fails that training needs.
    """

    json: bool = False
    """Print the findings as one line of JSON."""


def run(argv: Sequence[str]) -> int:
    """Examine and print.

    Raises:
        UserError: something in the words is not right.
    """
    arguments = parsing.command(DoctorArguments, argv, "mbrl doctor")
    if arguments is None:
        return 0
    from mbrl.deploy import doctor

    findings = doctor.examine(Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or compilation.folder()))
    failed = sum(finding.status == "fail" for finding in findings)
    warned = sum(finding.status == "warn" for finding in findings)
    if arguments.json:
        print(json.dumps({"failed": failed, "warned": warned, "findings": [finding._asdict() for finding in findings]}))
        return 1 if failed else 0
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.status:<5} {finding.name:<{width}}  {finding.said}{f'; {finding.do}' if finding.do else ''}")
    print(f"{failed} failed, {warned} warned: {'training does not work here' if failed else 'training works here'}")
    return 1 if failed else 0
