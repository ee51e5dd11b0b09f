"""A policy that nothing but a planner teaches solves a probe."""

import dataclasses

import pytest
from epochs import epochs, evaluation
from test_probes import CONFIG as PROBE

from mbrl.agents.distilling import DistilConfig
from mbrl.agents.planning import with_planner
from mbrl.envs.config import EnvConfig
from mbrl.planners import NoPlannerConfig
from mbrl.planners.mcts import MCTSConfig

pytestmark = pytest.mark.learning

AGENT = dataclasses.replace(
    PROBE.agent,
    behaviour=dataclasses.replace(PROBE.agent.behaviour, actor_scale=0.0),
    planner=MCTSConfig(simulations=8),
    distil=DistilConfig("cross_entropy", reanalyse=0.3),
)
CONFIG = dataclasses.replace(PROBE, agent=AGENT, env=EnvConfig("probe/discrete"), steps=4480)


def play(seed=0):
    """Train; return the mean return of 32 fresh episodes by the policy alone, of which 10 is the most."""
    *_, (program, state, metrics) = epochs(CONFIG, seed)
    found = evaluation(with_planner(program.agent, NoPlannerConfig()), CONFIG.env)(state)
    print(found, {name: float(value) for name, value in metrics.items() if name.startswith("distil/")})
    return found


def test_a_policy_learns_from_plans_alone():
    assert play() > 7
