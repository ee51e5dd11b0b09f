"""`mbrl serve`: a trained policy over HTTP, for robots and for people who do not use JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mbrl.cli import compilation, planner
from mbrl.cli import config as reader


@dataclasses.dataclass(frozen=True)
class ServeArguments:
    """Answer act requests over HTTP: each client begins a session, and the policy remembers what it has seen.

    On this machine's loopback unless told otherwise, and then with a token; `docs/deployment.md` has the pages and an
    example. `--planner NAME` plans with the trained model instead, as `mbrl eval` has it.
    """

    run_dir: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """The run's folder."""
    host: str = "127.0.0.1"
    """Where to listen. Any address but loopback needs `--token_file`."""
    port: int = 8000
    """Where to listen; 0 for any that is free."""
    token_file: str | None = None
    """A file with the word that clients must send as `Authorization: Bearer`; nobody else may be able to read it."""
    max_sessions: int = 1024
    """How many sessions there may be at once."""
    idle: float = 600.0
    """Seconds after which a session that nobody uses is ended."""
    batch: int = 32
    """Requests that are computed at once, at most; one step is compiled for so many."""
    mode: Literal["eval", "train"] = "eval"
    """The policy's mode, or samples of it as in training."""
    member: int = 0
    """Of a run of several seeds: which, counted from 0."""
    best: bool = False
    """Take the checkpoint with the best evaluation instead of the newest."""

    @property
    def planner(self) -> Any:
        """The config of the planner that acts, None for the policy; `--planner NAME`, see `mbrl list planners`."""
        return None


def run(argv: Sequence[str]) -> int:
    """Serve until a signal, and return 128 and its number.

    Raises:
        UserError: something in the words, the run's folder, the port or the token is not right.
    """
    arguments = planner.command(ServeArguments, argv, "mbrl serve")
    if arguments is None:
        return 0
    from mbrl.deploy import lazy  # brings jax with it, which --help does without

    lazy.web()
    from mbrl.deploy import server
    from mbrl.deploy.policy import make_policy
    from mbrl.runner.restore import load

    token = None if arguments.token_file is None else server.read_token(Path(arguments.token_file))
    limits = arguments.max_sessions, arguments.idle, arguments.batch
    settings = server.Settings(arguments.host, arguments.port, token, *limits)
    server.check(settings)
    with server.bound(settings) as held:
        compilation.use_cache()
        loaded = load(arguments.run_dir, reader.load_run(arguments.run_dir), best=arguments.best)
        policy = make_policy(loaded, arguments.planner, arguments.mode, arguments.member)
        print(f"loaded {arguments.run_dir}; compiling", flush=True)
        ended = server.serve(policy, settings, held, lambda url: print(f"serving on {url}; Ctrl-C ends it", flush=True))
    print("stopped")
    return 128 + ended if ended else 0
