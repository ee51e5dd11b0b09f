"""`mbrl export`: a trained policy as a file that runs without this package, or in PyTorch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from mbrl.cli import compilation, parsing, planner
from mbrl.cli import config as reader
from mbrl.core.errors import UserError

if TYPE_CHECKING:
    from mbrl.deploy.policy import Policy

_SNIPPET = """\
The policy runs in PyTorch, forwards and backwards. A command cannot hand over an object; in your program it is

    import mbrl
    policy = mbrl.torch_policy({run_dir!r})
    carry = policy.initial(1)
    action, carry = policy(observation, carry, first)    # tensors [1, ...]; gradients flow to observation and carry
"""


@dataclasses.dataclass(frozen=True)
class ExportArguments:
    """Write the policy of a run as one StableHLO program with its parameters, and a JSON that says how to run it.

    It runs with jax alone, without the environment; `docs/deployment.md` shows how. `--planner NAME` exports planning
    with the trained model instead, as `mbrl eval` has it.
    """

    run_dir: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """The run's folder."""
    to: str = "policy.bin"
    """The file to write; its description gets the same name with `.json`. `torch` tries it in PyTorch and says how."""
    batch: str = "1"
    """How many environments one call is for, or `symbolic` for any number."""
    mode: Literal["eval", "train"] = "eval"
    """The policy's mode, or samples of it as in training."""
    platforms: str = "cpu,cuda"
    """What it is to run on, with commas between: cpu, cuda, rocm, tpu. None of them has to be there."""
    member: int = 0
    """Of a run of several seeds: which, counted from 0."""
    best: bool = False
    """Take the checkpoint with the best evaluation instead of the newest."""
    json: bool = False
    """Print the last line as JSON."""

    @property
    def planner(self) -> Any:
        """The config of the planner that acts, None for the policy; `--planner NAME`, see `mbrl list planners`."""
        return None


def run(argv: Sequence[str]) -> int:
    """Export and say what was written.

    Raises:
        UserError: something in the words, the run's folder or the file's place is not right.
    """
    arguments = planner.command(ExportArguments, argv, "mbrl export")
    if arguments is None:
        return 0
    if arguments.to == "torch":
        return _try_torch(arguments)
    from mbrl.deploy import artifact, export  # brings jax with it, which --help does without

    path, rows = Path(arguments.to), _rows(arguments.batch)
    platforms = [name.strip() for name in arguments.platforms.split(",") if name.strip()]
    export.check(path, rows, platforms)
    policy = _policy(arguments)
    try:
        told = export.write(policy, path, rows, platforms)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    line = {"file": str(path), "json": str(artifact.beside(path)), "bytes": told["file"]["bytes"],
            "sha256": told["file"]["sha256"], "rows": told["rows"], "platforms": told["platforms"]}
    if arguments.json:
        print(json.dumps(line))
        return 0
    numbers = sum(entry.size for entry in artifact.read(path).parameters.values())
    print(f"policy: {path}, {line['bytes']:,} bytes with {numbers:,} parameters, for {', '.join(platforms)}")
    print(f"how to run it: {line['json']} and docs/deployment.md")
    return 0


def torch_policy(
    run_dir: str | Path,
    planner: Any = None,
    mode: Literal["eval", "train"] = "eval",
    member: int = 0,
    *,
    best: bool = False,
) -> Any:
    """Return a run's policy as a `torch.nn.Module`; see ``mbrl.deploy.torch_module.TorchPolicy``.

    Args:
        run_dir: the run's folder.
        planner: the config of a planner that acts instead of the actor; see ``mbrl.planners.PLANNERS``.
        mode: "eval" takes the policy's mode, "train" samples from it.
        member: of a run of several seeds, which one, counted from 0.
        best: take the checkpoint with the best evaluation instead of the newest.

    Raises:
        UserError: PyTorch is not installed, or something about the run is not right.
    """
    from mbrl.deploy import lazy, policy
    from mbrl.runner.restore import load

    lazy.torch()
    from mbrl.deploy.torch_module import TorchPolicy

    loaded = load(run_dir, reader.load_run(str(run_dir)), best=best)
    return TorchPolicy(policy.make_policy(loaded, planner, mode, member))


def _try_torch(arguments: ExportArguments) -> int:
    """Run the policy once in PyTorch, forwards and backwards, and say how a program gets it."""
    policy = torch_policy(arguments.run_dir, arguments.planner, arguments.mode, arguments.member, best=arguments.best)
    from mbrl.deploy.torch_module import rehearse

    rehearse(policy)
    print(_SNIPPET.format(run_dir=arguments.run_dir), end="")
    return 0


def _policy(arguments: ExportArguments) -> Policy:
    from mbrl.deploy.policy import make_policy
    from mbrl.runner.restore import load

    compilation.use_cache()
    loaded = load(arguments.run_dir, reader.load_run(arguments.run_dir), best=arguments.best)
    return make_policy(loaded, arguments.planner, arguments.mode, arguments.member)


def _rows(batch: str) -> int | str:
    """Return the number of rows that was written, or "symbolic"."""
    if batch == "symbolic":
        return batch
    if not batch.isascii() or not batch.isdigit() or len(batch) > 9:
        raise UserError(f"--batch is {parsing.short(batch)}, but must be a whole number of environments, or symbolic")
    return int(batch)
