"""The fast train step against the same step written plainly, on the same noise."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.agents.dreamer import Dreamer, DreamerConfig
from mbrl.behaviours.actor_critic import ActorCriticConfig
from mbrl.bench.naive import Chance, Naive, gumbel_one_hot, two_hot_loss, two_hot_mean
from mbrl.bench.pieces import experience, make_dreamer
from mbrl.core.distributions import TwoHot, straight_through
from mbrl.core.optim import OptimConfig
from mbrl.nets.images import ImageConfig
from mbrl.worldmodels.rssm import RSSMConfig

STEPS, BATCH, HORIZON = 40, 2, 3  # long enough for the border of an episode
KEY = jax.random.key(3)
# As few as show that layers follow each other: each is compiled many times over.
LAYERS, ACTING = {"encoder_layers": 2, "decoder_layers": 1}, {"actor_layers": 1, "critic_layers": 2}
CONFIG = DreamerConfig(
    worldmodel=RSSMConfig(deter=16, hidden=8, units=8, stoch=3, classes=4, blocks=2, bins=11, free_nats=0.3, **LAYERS),
    behaviour=ActorCriticConfig(units=8, horizon=HORIZON, bins=11, gradient="reinforce", entropy=0.1, **ACTING),
    optim=OptimConfig(learning_rate=1e-3, warmup=0),
)


@pytest.fixture(scope="module")
def both():
    """The agent, its plain counterpart, a state in which no head is silent, and experience."""
    dreamer = make_dreamer(CONFIG)
    state = jax.jit(dreamer.init)(jax.random.key(0))
    noise = lambda x, key: x + 0.3 * jax.random.normal(key, x.shape)
    keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(state.params)))
    keys = jax.tree.unflatten(jax.tree.structure(state.params), list(keys))
    params = jax.tree.map(noise, state.params, keys)
    state = state._replace(params=params, slow_critic=jax.tree.map(lambda x: 0.9 * x, params["critic"]))
    return dreamer, Naive(dreamer), state, experience(dreamer, STEPS, BATCH)


def same_chance(dreamer, key):
    """The noise that the fast path draws from ``key``, for the plain one."""
    model_key, behaviour_key = jax.random.split(key)
    prior_key, policy_key = jax.random.split(behaviour_key)
    stochastic = dreamer.model.stochastic
    return Chance(
        stochastic.noise(model_key, (STEPS, BATCH)),
        stochastic.noise(prior_key, (HORIZON, STEPS * BATCH)),
        jax.random.split(policy_key, HORIZON),
        lambda uniform, log_probs: straight_through(log_probs, uniform),
    )


def test_loss_and_gradient_are_the_same(both):
    dreamer, naive, state, sequence = both
    fast = lambda params: dreamer._loss(params, state, KEY, sequence)[0]
    plain = lambda params: naive.loss(params, state, same_chance(dreamer, KEY), sequence)[0]
    loss, grads = jax.jit(jax.value_and_grad(fast))(state.params)
    expected, expected_grads = jax.jit(jax.value_and_grad(plain))(state.params)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for path, grad in jax.tree.leaves_with_path(grads):
        other = dict(jax.tree.leaves_with_path(expected_grads))[path]
        assert np.abs(other).max() > 0, path
        np.testing.assert_allclose(grad, other, rtol=2e-3, atol=2e-5 * np.abs(other).max(), err_msg=str(path))


@pytest.mark.parametrize(("sampling", "kernel"), [("pool", 5), ("stride", 5), ("stride", 2)])
def test_images_are_read_and_drawn_the_same(sampling, kernel):
    images = ImageConfig(depth=2, multiples=(1, 2), sampling=sampling, kernel=kernel)
    spec = {"eye": specs.BoundedArray((16, 16, 1), np.uint8, 0, 1), "arm": specs.Array((3,), np.float32)}
    config = dataclasses.replace(CONFIG, worldmodel=dataclasses.replace(CONFIG.worldmodel, images=images))
    dreamer = Dreamer(config, spec, specs.BoundedArray((1,), np.float32, -1.0, 1.0))
    senses = dreamer.model.senses
    params = jax.jit(dreamer.model.init)(KEY)
    plainly = Naive(dreamer).plainly(params)
    seen = {"eye": jax.random.bernoulli(KEY, 0.3, (8, 16, 16, 1)).astype(jnp.uint8), "arm": jnp.ones((8, 3))}
    deter, stoch = jax.random.normal(KEY, (8, 16)), jax.random.normal(KEY, (8, 12))

    def both(apply):
        drawn = senses.expect(apply, deter, stoch)
        return senses.token(apply, seen, (8,)), senses.misfit(drawn, seen, (8,)), drawn["eye"].mean()

    for one, two in zip(both(partial(dreamer.model._apply, params)), both(plainly), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_optimisers_step_alike(both):
    """A hundred small tensors or one matrix: the same steps, also while the learning rate warms up."""
    _, _, state, _ = both
    config = dataclasses.replace(CONFIG, optim=OptimConfig(learning_rate=1e-2, warmup=3))
    fast, plain = make_dreamer(config).optimiser, Naive(make_dreamer(config)).optimiser
    kept, other = fast.init(state.params), plain.init(state.params)
    for scale in (1.0, -0.3, 5.0):
        grads = jax.tree.map(lambda x, scale=scale: scale * x, state.params)
        ours, kept = jax.jit(fast.update)(grads, kept, state.params)
        theirs, other = jax.jit(plain.update)(grads, other, state.params)
        for one, two in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert (np.asarray(one) != 0).any()
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-8)


def test_gumbel_samples_have_their_probabilities():
    log_probs = jnp.log(jnp.array([0.1, 0.2, 0.7]))
    draw = jax.vmap(lambda key: gumbel_one_hot(key, log_probs[None]))
    drawn = draw(jax.random.split(jax.random.key(0), 4000))[:, 0]
    np.testing.assert_allclose(drawn.mean(0), [0.1, 0.2, 0.7], atol=0.03)


@pytest.mark.parametrize("value", [-1e9, -3.7, 0.0, 0.4, 2e8])
def test_two_hot_is_the_fast_paths(value):
    logits = jax.random.normal(jax.random.key(0), (5, 11))
    values = jnp.full(5, value)
    np.testing.assert_allclose(two_hot_loss(logits, values), -TwoHot(logits).log_prob(values), rtol=1e-5)
    np.testing.assert_allclose(two_hot_mean(logits), TwoHot(logits).mean(), rtol=1e-4)


def test_recomputing_changes_no_number(both):
    _, _, state, sequence = both
    found = []
    for remat in (True, False):
        worldmodel = dataclasses.replace(CONFIG.worldmodel, remat=remat)
        behaviour = dataclasses.replace(CONFIG.behaviour, gradient="dynamics")
        other = make_dreamer(dataclasses.replace(CONFIG, worldmodel=worldmodel, behaviour=behaviour))
        grad = jax.grad(lambda params, other=other: other._loss(params, state, KEY, sequence)[0])
        found.append(jax.jit(grad)(state.params))
    for one, two in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-6 + 1e-5 * np.abs(two).max())
