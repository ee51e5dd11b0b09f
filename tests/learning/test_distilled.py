"""A policy that nothing but a planner teaches solves a probe."""

import dataclasses

import jax
import pytest
from test_probes import CONFIG as PROBE

from mbrl.agents.distilling import DistilConfig
from mbrl.agents.planning import with_planner
from mbrl.envs import make_vector
from mbrl.envs.config import EnvConfig
from mbrl.evaluation.rollout import make_evaluate
from mbrl.planners import NoPlannerConfig
from mbrl.planners.mcts import MCTSConfig
from mbrl.runner.epoch import make_program

pytestmark = pytest.mark.learning

AGENT = dataclasses.replace(
    PROBE.agent,
    behaviour=dataclasses.replace(PROBE.agent.behaviour, actor_scale=0.0),
    planner=MCTSConfig(simulations=8),
    distil=DistilConfig("cross_entropy", reanalyse=0.3),
)
CONFIG = dataclasses.replace(PROBE, agent=AGENT, env=EnvConfig("probe/discrete"))


def play(seed=0, steps=4480):
    """Train; return the mean return of 32 fresh episodes by the policy alone, of which 10 is the most."""
    program = make_program(CONFIG)
    state = program.init(jax.random.key(seed))
    while int(state.step) < CONFIG.prefill:
        state, _ = program.prefill(state)
    # Unlike most tests these run for a while.
    epoch = program.epoch.lower(state).compile(compiler_options={"xla_backend_optimization_level": 1})
    while int(state.step) < steps:
        state, metrics = epoch(state)
    alone = with_planner(program.agent, NoPlannerConfig())
    returns = make_evaluate(alone, make_vector(CONFIG.env, 32), 32)(state.agent, jax.random.key(1)).returns
    print(float(returns.mean()), {name: float(value) for name, value in metrics.items() if name.startswith("distil/")})
    return float(returns.mean())


def test_a_policy_learns_from_plans_alone():
    assert play() > 7
