"""Each probe environment is solved, and is not solved when the part it probes is broken.

A rising curve proves little: a wrong agent often learns something too. Here an agent that is right reaches a return
no broken one can, within seconds; and each part is broken on purpose to show that its probe would notice.
"""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from mbrl.agents.dreamer import DreamerConfig
from mbrl.behaviours import actor_critic
from mbrl.behaviours.actor_critic import ActorCriticConfig
from mbrl.core.distributions import Bernoulli
from mbrl.core.optim import OptimConfig
from mbrl.envs import make, make_vector
from mbrl.envs.config import EnvConfig
from mbrl.envs.wrappers import unwrap
from mbrl.evaluation.rollout import make_evaluate
from mbrl.replay.config import ReplayConfig
from mbrl.runner.config import Config
from mbrl.runner.epoch import make_program
from mbrl.worldmodels.rssm import RSSM, RSSMConfig

pytestmark = pytest.mark.learning

MODEL = RSSMConfig(deter=64, hidden=32, units=32, stoch=8, classes=4, bins=127, encoder_layers=1, decoder_layers=1)
BEHAVIOUR = ActorCriticConfig(horizon=8, bins=127, entropy=1e-3, actor_layers=2, critic_layers=2)
CONFIG = Config(
    agent=DreamerConfig(size="nano", worldmodel=MODEL, behaviour=BEHAVIOUR, optim=OptimConfig(1e-3, warmup=20)),
    num_envs=8,
    prefill=640,
    epoch=640,
    train_ratio=64.0,
    replay=ReplayConfig(capacity=8192, batch_size=16, batch_length=16),
)


def train(name, steps=5760, **behaviour):
    """Train on a probe and return the mean return of 32 fresh episodes and the probe."""
    agent = dataclasses.replace(CONFIG.agent, behaviour=dataclasses.replace(BEHAVIOUR, **behaviour))
    config = dataclasses.replace(CONFIG, env=EnvConfig(f"probe/{name}"), agent=agent)
    program = make_program(config)
    state, _ = program.prefill(program.init(jax.random.key(0)))
    while int(state.step) < steps:
        state, _ = program.epoch(state)
    evaluate = make_evaluate(program.agent, make_vector(config.env, 32), 32)
    returns = evaluate(state.agent, jax.random.key(1)).returns.mean()
    env = make(config.env)
    probe, _ = unwrap(env, jax.jit(env.reset)(jax.random.key(0))[0])
    return float(returns), probe


def passed(returns, probe, share=0.8):
    """Whether a return lies above ``share`` of the way from random to optimal."""
    return returns > probe.random_return + share * (probe.optimal_return - probe.random_return)


@pytest.mark.parametrize("name", ["action", "delayed@12", "terminal", "exact"])
def test_probe_is_solved(name):
    returns, probe = train(name)
    assert passed(returns, probe), returns


def fails(name, **behaviour):
    """Train and say whether the probe noticed."""
    returns, probe = train(name, **behaviour)
    return not passed(returns, probe, 0.7)


def test_action_probe_notices_credit_off_by_one(monkeypatch):
    """Replayed actions one step late: the reward seems to answer the action before."""
    observe = RSSM.observe
    late = lambda action: jnp.concatenate([action[:1], action[:-1]])
    monkeypatch.setattr(
        RSSM, "observe", lambda s, p, k, z, seq: observe(s, p, k, z, seq._replace(action=late(seq.action)))
    )
    assert fails("action")


def test_delayed_probe_notices_a_critic_that_is_not_bootstrapped(monkeypatch):
    """Returns that end with the horizon never see a reward that lies beyond it."""
    whole = actor_critic.lambda_return
    monkeypatch.setattr(actor_critic, "lambda_return", lambda r, d, v, lam: whole(r, d, jnp.zeros_like(v), lam))
    assert fails("delayed@12")


def test_terminal_probe_notices_a_missing_discount(monkeypatch):
    """Imagination that never ends takes the terminal's reward again and again."""
    monkeypatch.setattr(Bernoulli, "mean", lambda self: jnp.ones_like(self.logits))
    assert fails("terminal")


def test_exact_probe_notices_a_cut_gradient(monkeypatch):
    """Actions that pass no gradient leave the actor where it began."""
    imagine = RSSM.imagine
    blind = lambda policy: lambda latent, key: jax.lax.stop_gradient(policy(latent, key))
    monkeypatch.setattr(RSSM, "imagine", lambda s, p, k, z, policy, h: imagine(s, p, k, z, blind(policy), h))
    assert fails("exact", gradient="dynamics")
