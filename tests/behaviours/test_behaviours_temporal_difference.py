import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from exact_models import Line

from mbrl.behaviours.base import Behaviour
from mbrl.behaviours.temporal_difference import (
    Path,
    TemporalDifference,
    TemporalDifferenceConfig,
    check,
    discount_for,
)
from mbrl.core import normalise, parallel
from mbrl.core.distributions import SymlogTwoHot, even_bins, symexp
from mbrl.core.errors import UserError
from mbrl.core.types import MID, TimeStep

CONFIG = TemporalDifferenceConfig(gamma=0.5, critics=2, layers=0, units=1, bins=21)
BOX = specs.BoundedArray((1,), np.float32, -1.0, 1.0)
KEY = jax.random.key(0)
BINS = np.asarray(even_bins(21))  # whole numbers from -10 to 10 in symlog space
BEHAVIOUR = TemporalDifference(CONFIG, Line(), BOX)
STILL = {"Dense_0": {"kernel": jnp.zeros((1, 2)), "bias": jnp.zeros(2)}}


def critics(*bins):
    """Return critics that are sure of a bin each, whatever they are asked."""
    bias = jnp.stack([100.0 * jax.nn.one_hot(10 + number, 21) for number in bins])
    return {"Dense_0": {"kernel": jnp.zeros((len(bins), 2, 21)), "bias": bias}}


def test_it_is_a_behaviour():
    assert isinstance(BEHAVIOUR, Behaviour)


def test_bins_lie_evenly_in_symlog_space():
    # Half on 1 and half on 2 in symlog space read as symexp(1.5), not as the mean of symexp(1) and symexp(2).
    logits = jnp.full(21, -100.0).at[11].set(0.0).at[12].set(0.0)
    assert float(SymlogTwoHot(logits).mean()) == pytest.approx(np.expm1(1.5), rel=1e-5)
    assert float(SymlogTwoHot(jnp.zeros(21)).mean()) == 0.0
    value = symexp(jnp.array(1.25))
    found = SymlogTwoHot(jnp.arange(21.0)).log_prob(value)
    logp = np.arange(21.0) - np.log(np.exp(np.arange(21.0)).sum())
    assert float(found) == pytest.approx(0.75 * logp[11] + 0.25 * logp[12], rel=1e-5)


def test_the_policy_by_hand():
    # Raw log-deviations of 0 lie halfway between the bounds: (-10 + 2) / 2.
    actor = {"Dense_0": {"kernel": jnp.array([[1.0, 0.0]]), "bias": jnp.zeros(2)}}
    policy = BEHAVIOUR.act(actor, jnp.full((1, 1), 2.0))
    np.testing.assert_allclose(policy.loc, [[2.0]])
    np.testing.assert_allclose(jnp.log(policy.scale), [[-4.0]], rtol=1e-5)


def test_the_target_by_hand():
    # y = r + ½ d min(e² - 1, e³ - 1), the reward alone where the episode ended.
    following, reward, discount = jnp.zeros((3, 1)), jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 0.5, 0.0])
    target = BEHAVIOUR.target(STILL, critics(2, 3), KEY, following, reward, discount)
    np.testing.assert_allclose(target, reward + 0.5 * discount * np.expm1(2.0), rtol=1e-5)


def test_targets_go_by_two_critics_of_all():
    behaviour = TemporalDifference(dataclasses.replace(CONFIG, critics=5), Line(), BOX)
    sure = critics(0, 1, 2, 3, 4)
    keys = jax.random.split(KEY, 200)
    pairs = jax.jit(jax.vmap(lambda key: behaviour.some(sure, key, jnp.zeros((1, 1)), jnp.zeros((1, 1)))[:, 0]))(keys)
    found = np.rint(np.log1p(np.asarray(pairs)))
    assert found.shape == (200, 2)
    assert (found[:, 0] != found[:, 1]).all()
    np.testing.assert_allclose(np.bincount(found.ravel().astype(int)) / 400, 0.2, atol=0.07)


def test_the_critic_loss_by_hand():
    # Of a target on bin 1, a critic that says all alike is ln 21 away and one that is sure of bin 1 is 0 away.
    critic = jax.tree.map(lambda x, y: jnp.stack([x[0] * 0, y[0]]), critics(0), critics(1))
    loss = BEHAVIOUR.critic_loss(critic, jnp.zeros((4, 1)), jnp.zeros((4, 1)), jnp.full(4, np.expm1(1.0)))
    np.testing.assert_allclose(loss, np.log(21) / 2, rtol=1e-5)


def path(weight=1.0):
    timestep = TimeStep(jnp.full((2, 3), MID), jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.zeros((2, 3, 1)))
    reached = jnp.array([[1.0, 1, 1], [1, 1, 0], [1, 0, 0]])
    features = weight * jnp.linspace(-1, 1, 9).reshape((3, 3, 1))
    zeros = jnp.zeros((2, 3, 1))
    return Path(features, zeros, zeros, timestep, jnp.array([[1.0], [0.5], [0.25]]), reached)


def test_losses_are_decayed_and_masked_by_hand():
    # All alike: every critic loss is ln 21; the policy's value is 0 everywhere, and its entropy is left out.
    behaviour = TemporalDifference(dataclasses.replace(CONFIG, entropy=0.0), Line(), BOX)
    zeros = jax.tree.map(jnp.zeros_like, critics(0, 0))
    params = {"actor": STILL, "critic": zeros}
    _, (_, metrics) = behaviour.loss(params, zeros, normalise.init(), KEY, path())
    # Weights 1, 1, 0 and .5, 0, 0 over six transitions.
    assert float(metrics["loss/value"]) == pytest.approx(np.log(21) * 2.5 / 6, rel=1e-5)
    # Of policies sure to earn e - 1, whose range is below the least scale: -(e - 1) (1 + 1 + 1 + .5 + .5 + .25) / 9.
    params = {"actor": STILL, "critic": critics(1, 1)}
    _, (_, metrics) = behaviour.loss(params, zeros, normalise.init(), KEY, path())
    assert float(metrics["loss/policy"]) == pytest.approx(-np.expm1(1.0) * 4.25 / 9, rel=1e-4)


def test_targets_go_by_slow_critics_in_what_was_seen_until_the_episode_ends():
    """Sure of bin 1 where the feature is 0, as in what was unrolled, and of bin 2 where it is 1, as in what came."""
    slow, fast = critics(1, 1), critics(3, 3)
    kernel = slow["Dense_0"]["kernel"].at[:, 0, 12].set(200.0)
    slow = {"Dense_0": slow["Dense_0"] | {"kernel": kernel}}
    going = jnp.array([[1.0, 1, 0], [0, 1, 1]])
    timestep = path().timestep._replace(reward=jnp.arange(6.0).reshape((2, 3)), discount=going)
    told = path(weight=0.0)._replace(seen=jnp.ones((2, 3, 1)), timestep=timestep)
    _, (_, metrics) = BEHAVIOUR.loss({"actor": STILL, "critic": fast}, slow, normalise.init(), KEY, told)
    # Rewards are 2.5 on average, and four of six steps go on.
    assert float(metrics["critic/target"]) == pytest.approx(2.5 + 0.5 * 4 / 6 * np.expm1(2.0), rel=1e-5)


def test_the_policys_loss_reaches_neither_latents_nor_critics():
    behaviour = BEHAVIOUR
    params = jax.tree.map(lambda x: x + 0.1, behaviour.init(KEY))

    def loss(params, weight, scale):
        own = TemporalDifference(dataclasses.replace(CONFIG, value_scale=scale), Line(), BOX)
        return own.loss(params, params["critic"], normalise.init(), KEY, path(weight))[0]

    derive = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    size = lambda tree: sum(float(abs(x).sum()) for x in jax.tree.leaves(tree))
    grads, through = derive(params, 1.0, 0.0)
    assert (size(grads["critic"]), float(through)) == (0, 0)
    assert size(grads["actor"]) > 0
    grads, through = derive(params, 1.0, 1.0)
    assert size(grads["critic"]) > 0
    assert float(through) != 0


def test_devices_that_share_the_pieces_lose_what_one_would():
    params = jax.tree.map(lambda x: x + 0.1, BEHAVIOUR.init(KEY))

    def losses(path):
        metrics = BEHAVIOUR.loss(params, params["critic"], normalise.init(), KEY, path)[1][1]
        return jnp.stack([metrics["loss/policy"], metrics["loss/value"], metrics["actor/entropy"]])

    alone = jax.jit(losses)(path())
    # One piece each; the decay, which has none of their axis, is everyone's.
    decay = path().decay
    rows = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0)[:, :, None], path()._replace(decay=()))
    together = jax.jit(jax.vmap(lambda row: losses(row._replace(decay=decay)), axis_name=parallel.AXIS))(rows)
    np.testing.assert_allclose(together.mean(0), alone, rtol=1e-5)


@pytest.mark.parametrize(("length", "gamma"), [(10, 0.95), (125, 0.96), (500, 0.99), (1000, 0.995), (5000, 0.995)])
def test_the_discount_fits_the_episode(length, gamma):
    assert discount_for(length) == pytest.approx(gamma)
    config = dataclasses.replace(CONFIG, gamma=None, episode_length=length)
    assert TemporalDifference(config, Line(), BOX).gamma == pytest.approx(gamma)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"critics": 1}, "behaviour.critics must be at least 2; got 1"),
        ({"gamma": 1.5}, "behaviour.gamma must lie in [0, 1]; got 1.5"),
        ({"bins": 4}, "behaviour.bins must be odd and at least 3; got 4"),
        ({"min_log_std": 3.0}, "behaviour.min_log_std must be below max_log_std (2.0); got 3.0"),
    ],
)
def test_bad_configs_are_refused_in_a_sentence(changes, sentence):
    with pytest.raises(UserError) as error:
        check(dataclasses.replace(CONFIG, **changes))
    assert str(error.value) == sentence
