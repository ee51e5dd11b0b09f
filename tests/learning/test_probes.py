"""Each probe environment is solved, and is not solved when the part it probes is broken.

A rising curve proves little: a wrong agent often learns something too. Here an agent that is right reaches a return
no broken one can, within seconds; and each part is broken on purpose to show that its probe would notice.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from epochs import epochs, evaluation

from mbrl.agents.dreamer import DreamerConfig
from mbrl.behaviours import actor_critic
from mbrl.behaviours.actor_critic import ActorCritic, ActorCriticConfig
from mbrl.core.distributions import Bernoulli
from mbrl.core.optim import OptimConfig
from mbrl.envs import make, make_vector
from mbrl.envs.config import EnvConfig
from mbrl.envs.wrappers import unwrap
from mbrl.evaluation.rollout import make_record
from mbrl.nets.images import ImageConfig, ImageEncoder
from mbrl.replay.config import ReplayConfig
from mbrl.runner.config import Config
from mbrl.worldmodels.rssm import RSSM, RSSMConfig

pytestmark = pytest.mark.learning

# The probes have one or two bits of state. Each latent variable beyond what they need is noise that hides the product
# of sign and action from the reward head: with eight variables of four classes the cue takes thousands of updates.
MODEL = RSSMConfig(
    deter=128, hidden=64, units=64, stoch=4, classes=2, bins=127, encoder_layers=1, decoder_layers=1,
    images=ImageConfig(depth=4),
)
# A probe's returns say nothing until the model has found that product; the entropy keeps the actor undecided till then.
BEHAVIOUR = ActorCriticConfig(horizon=5, bins=127, entropy=3e-2, actor_layers=2, critic_layers=2)
CONFIG = Config(
    agent=DreamerConfig(size="nano", worldmodel=MODEL, behaviour=BEHAVIOUR, optim=OptimConfig(1e-3, warmup=20)),
    num_envs=8,
    prefill=2560,
    epoch=640,
    train_ratio=64.0,
    replay=ReplayConfig(capacity=8192, batch_size=16, batch_length=10),
)

# 256 updates come with 640 env steps. Most probes are solved after 512 of them, these after 768, a picture after 1024.
STEPS = {"cue": 5120, "sight": 5760, "delayed@12": 5120, "exact": 5120}
# How many epochs are looked at.
LAST = 3


def train(name, latent="categorical", seed=0):
    """Train on a probe; yield the program, the state and the config after each epoch but the early ones."""
    agent = dataclasses.replace(CONFIG.agent, worldmodel=dataclasses.replace(MODEL, latent=latent))
    config = dataclasses.replace(CONFIG, env=EnvConfig(f"probe/{name}"), agent=agent, steps=STEPS.get(name, 4480))
    for program, state, _ in epochs(config, seed):
        if int(state.step) > config.steps - LAST * config.epoch:
            yield program, state, config


def play(name, latent="categorical", seed=0, enough=np.inf):
    """Train on a probe; return the mean return of 32 fresh episodes as a share of the way from random to optimal.

    Of the last epochs the best one counts: now and then a right policy flips for an epoch, while one that is broken
    does not get there at all. So training ends with the first epoch that is ``enough``.
    """
    env = make(EnvConfig(f"probe/{name}"))
    probe, _ = unwrap(env, jax.jit(env.reset)(jax.random.key(0))[0])
    evaluate, found = None, []
    for program, state, config in train(name, latent, seed):
        evaluate = evaluate or evaluation(program.agent, config.env)
        found.append((evaluate(state) - probe.random_return) / (probe.optimal_return - probe.random_return))
        if found[-1] > enough:
            break
    print(f"{name}: {found} from {probe.random_return:.3f} to {probe.optimal_return:.3f}")
    return max(found)


# What is enough; for the discrete probe, one choice in a hundred is random by unimix, and the model errs now and then.
SOLVED = {"action": 0.9, "sight": 0.8, "delayed@12": 0.8, "cue": 0.8, "terminal": 0.8, "discrete": 0.75}


# Another processor rounds differently, and that is another seed. Of eight seeds one left two pictures with one code, or
# the actor with an action so near its bound that it hardly moved; what is broken is not solved by any.
SEEDS = {"sight": 3}


@pytest.mark.parametrize("name", SOLVED)
def test_probe_is_solved(name):
    assert any(play(name, "categorical", seed, SOLVED[name]) > SOLVED[name] for seed in range(SEEDS.get(name, 1)))


def test_exact_probe_is_solved_with_gaussian_latents():
    """Sixteen codes for a number in [-0.8, 0.8] would be too few to say it to a tenth."""
    assert play("exact", "gaussian", enough=0.9) > 0.9


def test_action_probe_notices_actions_that_are_dreamt_in_reverse(monkeypatch):
    """An actor that follows such a model goes the wrong way; one without a gradient might be right by chance."""
    imagine = RSSM.imagine
    reverse = lambda policy: lambda latent, key: -policy(latent, key)
    monkeypatch.setattr(RSSM, "imagine", lambda s, p, k, z, policy, h: imagine(s, p, k, z, reverse(policy), h))
    assert play("action") < 0.5


def test_sight_probe_notices_blindness(monkeypatch):
    """An encoder that is shown nothing leaves nothing to go by."""
    see = ImageEncoder.__call__
    monkeypatch.setattr(ImageEncoder, "__call__", lambda s, image: see(s, jnp.zeros_like(image)))
    assert play("sight") < 0.5


def test_cue_probe_notices_a_filter_without_memory(monkeypatch):
    """A state that starts anew in every step knows what it sees and nothing else."""
    filter_ = RSSM._filter
    monkeypatch.setattr(
        RSSM, "_filter", lambda s, p, z, a, token, first, noise: filter_(s, p, z, a, token, first | True, noise)
    )
    assert play("cue") < 0.5


def test_discrete_probe_notices_the_wrong_sign(monkeypatch):
    """Ascending where the loss should be descended makes good choices rarer."""
    loss = ActorCritic.actor_loss
    monkeypatch.setattr(ActorCritic, "actor_loss", lambda *a: (-loss(*a)[0], loss(*a)[1]))
    assert play("discrete") < 0.5


def test_delayed_probe_notices_a_critic_that_is_not_bootstrapped(monkeypatch):
    """Returns that end with the horizon never see a reward that lies beyond it."""
    whole = actor_critic.lambda_return
    monkeypatch.setattr(actor_critic, "lambda_return", lambda r, d, v, lam: whole(r, d, jnp.zeros_like(v), lam))
    assert play("delayed@12") < 0.5


def test_terminal_probe_notices_a_missing_discount(monkeypatch):
    """Imagination that never ends takes the terminal's reward again and again."""
    monkeypatch.setattr(Bernoulli, "mean", lambda self: jnp.ones_like(self.logits))
    assert play("terminal") < 0.5


def test_exact_probe_notices_a_cut_gradient(monkeypatch):
    """Actions that pass no gradient leave the actor where it began."""
    imagine = RSSM.imagine
    blind = lambda policy: lambda latent, key: jax.lax.stop_gradient(policy(latent, key))
    monkeypatch.setattr(RSSM, "imagine", lambda s, p, k, z, policy, h: imagine(s, p, k, z, blind(policy), h))
    assert play("exact", "gaussian") < 0.8


def value_errors():
    """Train on a reward of 1 in each of ten steps; return imagined and critic's values minus the true ones [T, N]."""
    *_, (program, state, config) = train("reward")
    record = make_record(program.agent, make_vector(config.env, 8), 22, mode="train")
    sequence, _ = record(state.agent, jax.random.key(1))
    diagnosis = jax.jit(program.agent.diagnose, static_argnums=3)(state.agent, jax.random.key(2), sequence, 2)
    left = np.round(10 * (1 - np.asarray(sequence.timestep.observation)[..., -1]))
    true = (1 - program.agent.gamma**left) / (1 - program.agent.gamma)
    errors = np.asarray(diagnosis.imagined_return) - true, np.asarray(diagnosis.value) - true
    print([np.abs(error).mean() for error in errors])
    return errors


def test_reward_probe_is_valued_right():
    """Between 0 and 10 steps are left: the imagined return and the critic know how many, to half a step."""
    for errors in value_errors():
        assert np.abs(errors).mean() < 0.5


def test_reward_probe_notices_rewards_that_are_not_learned(monkeypatch):
    """With a reward head that is given half the reward the values are half."""
    loss = RSSM.loss

    def half(self, params, key, sequence, start):
        timestep = sequence.timestep._replace(reward=sequence.timestep.reward / 2)
        return loss(self, params, key, sequence._replace(timestep=timestep), start)

    monkeypatch.setattr(RSSM, "loss", half)
    for errors in value_errors():
        assert np.abs(errors).mean() > 0.7
