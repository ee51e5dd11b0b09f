import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.core.distributions import TwoHot
from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, LAST, MID, Sequence, TimeStep
from mbrl.nets.images import ImageConfig
from mbrl.worldmodels import muzero
from mbrl.worldmodels.base import WorldModel
from mbrl.worldmodels.muzero import MuZeroModel, MuZeroModelConfig, half_gradient, over_unroll, to_unit, windows

CONFIG = MuZeroModelConfig(
    state=5, units=6, encoder_layers=1, dynamics_layers=1, bins=9, unroll=3, memory=4, consistency_scale=2.0,
    consistency_size=3,
)
OBSERVATION, ACTION = specs.Array((2,), np.float32), specs.BoundedArray((1,), np.float32, -1.0, 1.0)
KEY = jax.random.key(0)
PLAIN, PREFIX = (MuZeroModel(dataclasses.replace(CONFIG, prefix=on), OBSERVATION, ACTION) for on in (False, True))
BOTH = pytest.mark.parametrize("model", [PLAIN, PREFIX], ids=["plain", "prefix"])
# The reward's is by hand: ln 9 of a silent head, in the nine of twelve steps that no border takes.
GOLDEN = {
    "reward": 0.75 * np.log(9), "discount": 0.561131477, "decoder": 1.235549212, "consistency": 0.050045658,
}


def sequence(seed=0, steps=6, border=4):
    """Return a sequence ``[T + 1, 2]`` of noise; in the first column an episode begins at ``border``."""
    rng, lead = np.random.default_rng(seed), (steps + 1, 2)
    draw = lambda *shape: jnp.asarray(rng.normal(size=(*lead, *shape)), jnp.float32)
    step_type = np.full(lead, MID, np.int32)
    step_type[border - 1, 0], step_type[border, 0] = LAST, FIRST
    timestep = TimeStep(jnp.asarray(step_type), draw(), jnp.asarray(step_type != LAST, jnp.float32), draw(2))
    return Sequence(timestep, jnp.tanh(draw(1)), jnp.zeros((*lead, 0)))


def drawn(model):
    """Parameters with a reward head that is not silent."""
    params = jax.jit(model.init)(KEY)
    noise = lambda x: 0.5 * jax.random.normal(KEY, x.shape)
    return params | {"reward": jax.tree.map(noise, params["reward"])}


@BOTH
def test_it_is_a_world_model(model):
    assert isinstance(model, WorldModel)


def test_windows_and_masks_by_hand():
    np.testing.assert_array_equal(windows(jnp.arange(5), 2), [[0, 1, 2], [1, 2, 3], [2, 3, 4]])
    # FIRST at 4: from starts 1, 2 and 3 it is 3, 2 and 1 steps away; a start may be FIRST itself.
    mask = muzero.same_episode(sequence(steps=7).timestep, 3)
    np.testing.assert_array_equal(mask[:, :, 0].T, [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1] * 4])
    assert (mask[:, :, 1] == 1).all()


def test_small_pieces_by_hand():
    np.testing.assert_allclose(to_unit(jnp.array([[2.0, 4.0, 3.0]])), [[0, 1, 0.5]], rtol=1e-4)
    np.testing.assert_array_equal(to_unit(jnp.zeros((1, 3))), 0)
    value, slope = jax.value_and_grad(lambda x: half_gradient(x) ** 2)(jnp.float32(3))
    assert (value, slope) == (9, 3)
    np.testing.assert_array_equal(over_unroll(jnp.array([1.0, 2.0, 4.0]).reshape(3, 1, 1)), [[4.0]])


@BOTH
def test_each_unrolled_step_halves_the_gradient(model, monkeypatch):
    """What reaches the encoder from the k-th state is 2^-k of it."""
    params, given = drawn(model), sequence()

    def through(encoder):
        unrolled = model.unroll(params | {"encoder": encoder}, given)
        return unrolled.latent.state[..., 1:3].sum((1, 2, 3))

    halved = jax.jit(jax.jacrev(through))(params["encoder"])
    monkeypatch.setattr(muzero, "half_gradient", lambda x: x)
    whole = jax.jit(jax.jacrev(through))(params["encoder"])
    for ours, full in zip(jax.tree.leaves(halved), jax.tree.leaves(whole), strict=True):
        scale = 2.0 ** -jnp.arange(4.0).reshape((4,) + (1,) * (full.ndim - 1))
        np.testing.assert_allclose(ours, scale * full, rtol=1e-4, atol=1e-7)
        assert abs(full).max() > 0


@BOTH
def test_nothing_leaks_across_a_border(model):
    """The losses of starts in one episode know nothing of the next one, neither values nor gradients."""
    params, given = drawn(model), sequence()

    def before(observation, reward, action):
        timestep = given.timestep._replace(observation=observation, reward=reward)
        seen = given._replace(timestep=timestep, action=action)
        losses, _ = model.losses(params, model.unroll(params, seen), seen)
        return sum(loss[:4, 0].sum() for loss in losses.values())

    grads = jax.jit(jax.grad(before, (0, 1, 2)))(given.timestep.observation, given.timestep.reward, given.action)
    # Of the last step before the border the action is ignored by the environment, and so by the model.
    for grad, first in zip(grads, (4, 4, 3), strict=True):
        np.testing.assert_array_equal(grad[first:, 0], 0)
        assert (abs(grad[first - 1, 0]) > 0).any() or grad.ndim == 2


@BOTH
def test_rewards_are_learned_as_they_are_told(model):
    params, given = drawn(model), sequence()
    unrolled = jax.jit(model.unroll)(params, given)
    losses, _ = jax.jit(model.losses)(params, unrolled, given)
    reward = np.asarray(given.timestep.reward)
    # From start 1 in the second column: r_2, r_3, r_4, or their sums.
    target = reward[2:5, 1]
    target = np.cumsum(target) if model is PREFIX else target
    by_hand = -np.asarray(TwoHot(unrolled.reward[:, 1, 1]).log_prob(jnp.asarray(target))).mean()
    assert float(losses["reward"][1, 1]) == pytest.approx(by_hand, rel=1e-5)


def test_a_reward_is_the_difference_of_two_prefixes():
    params, actions = drawn(PREFIX), jnp.linspace(-1, 1, 7).reshape(7, 1, 1)
    start = PREFIX.initial(1)._replace(state=jnp.linspace(0, 1, 5)[None])
    dream = jax.jit(lambda: PREFIX.imagine(params, KEY, start, actions, 7))().latent
    told, reward = np.asarray(dream.prefix)[:, 0], np.asarray(dream.reward)[:, 0]
    np.testing.assert_allclose(reward[1:4], np.diff(told)[:3], rtol=1e-4, atol=1e-5)
    # After U = 3 steps the cell forgets, and the sum begins anew.
    np.testing.assert_allclose(reward[4], told[4], rtol=1e-4)
    np.testing.assert_array_equal(dream.steps[:, 0], [0, 1, 2, 3, 1, 2, 3, 1])
    fresh = jax.tree.map(lambda x: x[3], dream)._replace(memory=jnp.ones((1, 4)), prefix=jnp.ones(1))
    again = jax.jit(lambda: PREFIX.imagine(params, KEY, fresh, actions[3:4], 1))().latent
    np.testing.assert_allclose(again.reward[1], reward[4:5], rtol=1e-5)


@BOTH
def test_a_dream_is_an_unroll(model):
    params, given = drawn(model), sequence()
    unrolled = jax.jit(model.unroll)(params, given)
    start = jax.tree.map(lambda x: x[0, 2], unrolled.latent)
    dream = jax.jit(lambda: model.imagine(params, KEY, start, given.action[2:5], 3))()
    for ours, theirs in zip(jax.tree.leaves(dream.latent), jax.tree.leaves(unrolled.latent), strict=True):
        np.testing.assert_allclose(ours, theirs[:, 2], rtol=1e-4, atol=1e-6)
    assert dream.latent.state.min() >= 0
    assert dream.latent.state.max() <= 1


@BOTH
def test_filtering_remembers_nothing_but_what_was_expected(model):
    params, given = drawn(model), sequence()
    start = jax.tree.map(lambda x: x[0], model.represent(params, given.timestep.observation, (7, 2)))
    after = jax.jit(model.observe)(params, KEY, start, given).latent
    latent, step = start, jax.jit(model.step)
    for t in range(6):
        timestep = jax.tree.map(lambda x: x[t + 1], given.timestep)
        latent = step(params, KEY, latent, given.action[t], timestep)
        for ours, theirs in zip(jax.tree.leaves(latent), jax.tree.leaves(after), strict=True):
            np.testing.assert_allclose(ours, theirs[t], rtol=1e-4, atol=1e-6)
    assert after.reward[3, 0] == 0  # at FIRST nothing was expected
    assert (after.reward[:3] != 0).all()
    assert step._cache_size() == 1


def test_golden_losses():
    params, given = jax.jit(PLAIN.init)(KEY), sequence()
    total, output = jax.jit(PLAIN.loss)(params, KEY, given)
    means = {name: float(loss.mean()) for name, loss in output.losses.items()}
    assert means == pytest.approx(GOLDEN, rel=1e-4)
    assert float(total) == pytest.approx(sum(PLAIN.weights[name] * mean for name, mean in means.items()), rel=1e-5)
    assert {loss.shape for loss in output.losses.values()} == {(4, 2)}


def test_images_are_seen():
    image = specs.BoundedArray((8, 8, 1), np.uint8, 0, 1)
    model = MuZeroModel(CONFIG, image, ACTION)
    params = jax.jit(model.init)(KEY)
    shown = jnp.zeros((2, 8, 8, 1), jnp.uint8).at[1, 2:5].set(1)
    latent = jax.jit(lambda: model.represent(params, shown, (2,)))()
    assert (latent.state[0] != latent.state[1]).any()


def test_images_are_learned_from_shifted_and_vectors_as_they_are():
    image = specs.BoundedArray((8, 8, 1), np.uint8, 0, 1)
    picture, given = np.random.default_rng(1).integers(0, 2, (7, 2, 8, 8, 1), np.uint8), sequence()
    seen = given._replace(timestep=given.timestep._replace(observation=jnp.asarray(picture)))

    def losses(shift, observation, data):
        config = dataclasses.replace(CONFIG, images=ImageConfig(depth=2, shift=shift))
        model = MuZeroModel(config, observation, ACTION)
        return jax.jit(lambda: model.loss(model.init(KEY), KEY, data)[1].losses)()

    still, moved = (losses(shift, image, seen)["decoder"] for shift in (0, 4))
    assert (still != moved).any(0).all()
    for ours, theirs in zip(*(losses(shift, OBSERVATION, given).values() for shift in (0, 4)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bins": 4}, "worldmodel.bins must be odd and at least 3; got 4"),
        ({"unroll": 0}, "worldmodel.unroll must be at least 1; got 0"),
        ({"reward_scale": -1.0}, "worldmodel.reward_scale must be at least 0; got -1.0"),
    ],
)
def test_bad_values_are_refused_in_a_sentence(changes, sentence):
    with pytest.raises(UserError) as error:
        MuZeroModel(dataclasses.replace(CONFIG, **changes), OBSERVATION, ACTION)
    assert str(error.value) == sentence


def test_a_sequence_shorter_than_the_unroll_is_refused():
    with pytest.raises(UserError, match=r"replay.batch_length must be at least worldmodel.unroll \(3\); got 2"):
        PLAIN.unroll(PLAIN.init(KEY), sequence(steps=2, border=1))
