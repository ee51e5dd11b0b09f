import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.behaviours.base import Behaviour
from mbrl.behaviours.policy_value import PolicyValue, PolicyValueConfig
from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, LAST, MID, TimeStep
from mbrl.worldmodels.muzero import MuZeroModel, MuZeroModelConfig

MODEL = MuZeroModel(
    MuZeroModelConfig(state=4, units=6, bins=9), specs.Array((2,), np.float32), specs.DiscreteArray(2)
)
CONFIG = PolicyValueConfig(gamma=0.5, lam=0.8, layers=1, units=6, bins=9, horizon=2)
KEY = jax.random.key(0)


def make(**changes):
    return PolicyValue(dataclasses.replace(CONFIG, **changes), MODEL, specs.DiscreteArray(2))


def replayed(last_discount=0.0):
    """Two steps of one episode, its last, and the first of another; one column."""
    column = lambda *x: jnp.array(x, jnp.float32)[:, None]
    step_type = jnp.array([MID, MID, LAST, FIRST], jnp.int32)[:, None]
    return TimeStep(step_type, column(0, 2, 4, 0), column(1, 1, last_discount, 1), jnp.zeros((4, 1, 2)))


BOOTSTRAP = jnp.array([1.0, 3.0, 10.0, 7.0])[:, None]
NONE = jnp.zeros((4, 1))


def test_td_targets_by_hand():
    # Terminated: G_1 = 4; G_0 = 2 + 0.5 (0.2 * 3 + 0.8 * 4) = 3.9. From LAST and at the sequence's end there is none.
    target, mask, metrics = make().targets(replayed(), BOOTSTRAP, NONE, NONE)
    np.testing.assert_allclose(target[:2, 0], [3.9, 4.0], rtol=1e-6)
    np.testing.assert_array_equal(mask[:, 0], [1, 1, 0, 0])
    assert float(metrics["value/target"]) == pytest.approx(3.95)
    assert float(metrics["search/overestimation"]) == 0
    # Truncated: what was expected at the border counts whole, whatever lambda: G_1 = 4 + 0.5 * 10 = 9.
    target, _, _ = make().targets(replayed(1.0), BOOTSTRAP, NONE, NONE)
    np.testing.assert_allclose(target[:2, 0], [2 + 0.5 * (0.6 + 7.2), 9.0], rtol=1e-6)


def test_nothing_of_the_next_episode_is_a_target():
    for last_discount in (0.0, 1.0):
        one, mask, _ = make().targets(replayed(last_discount), BOOTSTRAP, NONE, NONE)
        other, _, _ = make().targets(replayed(last_discount), BOOTSTRAP.at[3].set(1000.0), NONE, NONE)
        np.testing.assert_array_equal(mask * one, mask * other)


def test_search_values_are_targets_where_asked_for_and_searched():
    searched, known = jnp.array([5.0, 6.0, 7.0, 8.0])[:, None], jnp.array([1.0, 0.0, 1.0, 1.0])[:, None]
    target, mask, metrics = make(value_target="search").targets(replayed(), BOOTSTRAP, searched, known)
    np.testing.assert_array_equal(target, searched)
    np.testing.assert_array_equal(mask[:, 0], [1, 0, 0, 1])
    # Where both are known, at the first step alone: 5 - 3.9.
    assert float(metrics["search/overestimation"]) == pytest.approx(1.1, rel=1e-5)


def test_losses_by_hand():
    behaviour = make()
    assert isinstance(behaviour, Behaviour)
    params = jax.jit(behaviour.init)(KEY)
    latent = MODEL.initial(3)._replace(state=jnp.arange(12.0).reshape(3, 4))
    lesson, known, valued = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 0.0, 1.0]), jnp.array([0.0, 1.0, 1.0])
    losses = jax.jit(behaviour.losses)(params, latent, lesson, known, jnp.array([0.0, 1.0, -2.0]), valued)
    np.testing.assert_allclose(losses["policy"], [1, 0, 3])
    # The value begins at zero logits: a two-hot target costs ln 9 wherever it lies.
    np.testing.assert_allclose(losses["value"], np.log(9) * np.array(valued), rtol=1e-6)
    probs = np.exp(np.asarray(behaviour.act(params["actor"], latent).log_probs))
    np.testing.assert_allclose(losses["entropy"], known * (probs * np.log(probs)).sum(-1), rtol=1e-5)


def test_an_imagined_return_by_hand():
    behaviour = make()
    model, params = jax.jit(MODEL.init)(KEY), jax.jit(behaviour.init)(KEY)
    model |= {"discount": jax.tree.map(jnp.zeros_like, model["discount"])}
    imagined = jax.jit(behaviour.imagine)(model, params, KEY, MODEL.initial(3))
    assert imagined.returns.shape == imagined.weight.shape == (2, 3)
    # Rewards and values are 0 as drawn. Every step goes on with probability a half, the start surely: 0.5 gamma.
    np.testing.assert_array_equal(imagined.returns, 0)
    np.testing.assert_allclose(imagined.weight, [[1, 1, 1], [0.25] * 3], rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"bins": 4}, "behaviour.bins must be odd"),
        ({"lam": 1.1}, r"behaviour.lam must lie in \[0, 1\]; got 1.1"),
        ({"units": 0}, "behaviour.units must be at least 1; got 0"),
        ({"min_std": 0.0}, "behaviour.min_std must be positive"),
    ],
)
def test_bad_values_are_refused_in_a_sentence(changes, names):
    with pytest.raises(UserError, match=names):
        make(**changes)
