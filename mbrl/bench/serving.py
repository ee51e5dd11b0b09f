"""A policy over HTTP: milliseconds from a request to its answer, for one session alone and for many at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import jax
from dm_env import specs

from mbrl.agents import dreamer
from mbrl.bench.pieces import ACTIONS, SEEN, Setting
from mbrl.core.errors import UserError
from mbrl.deploy import server
from mbrl.deploy.policy import from_agent
from mbrl.deploy.server import Settings
from mbrl.runner.checks import check
from mbrl.version import __version__

MOST = 10_000  # sessions
_CALM = 0.5  # of what the server answers at most: where nobody waits for anybody


def measure(setting: Setting, sessions: int, seconds: float) -> dict[str, Any]:
    """Serve the setting's agent, untrained, to a process of clients on this machine, and return the figures for JSON.

    Args:
        setting: the agent's size, and what it observes.
        sessions: how many act at once.
        seconds: of each of the three loads.

    Returns:
        ``alone``: one session that acts as soon as it has its answer. ``full``: all of them do, so their latency is a
        queue's and ``acts_per_s`` what the server can at most. ``calm``, whose ``p50_ms`` and ``p99_ms`` count: all of
        them, at half of that rate.
    """
    check(setting.config)
    name = setting.obs
    agent = dreamer.make(setting.config.agent, SEEN[name], specs.BoundedArray((ACTIONS,), "float32", -1.0, 1.0))
    policy = from_agent(agent, jax.jit(agent.init)(jax.random.key(0)), SEEN[name], specs.BoundedArray(
        (ACTIONS,), "float32", -1.0, 1.0))
    begin = time.perf_counter()
    with server.background(policy, Settings(port=0, max_sessions=sessions)) as url:
        start = time.perf_counter() - begin
        alone = _load(url, 1, seconds, 0.0)
        full = _load(url, sessions, seconds, 0.0)
        calm = _load(url, sessions, seconds, _CALM * full["acts_per_s"] / sessions)
    return {
        "piece": "serve", "size": setting.config.agent.size, "obs": name, "sessions": sessions,
        "p50_ms": calm["p50_ms"], "p99_ms": calm["p99_ms"], "acts_per_s": full["acts_per_s"],
        "start_s": round(start, 2), "alone": alone, "calm": calm, "full": full,
        "device": jax.devices()[0].device_kind, "versions": f"mbrl {__version__}, jax {jax.__version__}",
    }


def table(report: dict[str, Any]) -> str:
    """Return the report as lines to read."""
    lines = [f"{'load':<8}{'sessions':>9}{'acts/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}"]
    for name in ("alone", "calm", "full"):
        row = report[name]
        figures = (row[key] for key in ("sessions", "acts_per_s", "p50_ms", "p99_ms", "max_ms"))
        lines.append(f"{name:<8}" + "".join(f"{figure:>9}" for figure in figures))
    return "\n".join([*lines, f"size {report['size']}, {report['obs']}; {report['device']}; {report['versions']}"])


def _load(url: str, sessions: int, seconds: float, rate: float) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "mbrl.bench.load", url, "--sessions", str(sessions)]
    search = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    command += ["--seconds", str(seconds), "--rate", str(rate)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": search}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the clients of the server that was to be timed failed: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)
