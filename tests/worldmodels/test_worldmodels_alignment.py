import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl.core.errors import UserError
from mbrl.worldmodels.alignment import AlignmentConfig, barlow_twins, check, info_nce, misalignment


def test_info_nce_by_hand():
    # Cosines 1 and 0 over a temperature of 0.5: each is told from the other with odds of e^2.
    found = info_nce(jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0, 0.0], [0.0, 3.0]]), 0.5)
    np.testing.assert_allclose(found, np.full(2, np.log(1 + np.exp(-2))), rtol=1e-5)


def test_info_nce_of_what_tells_nothing_is_the_logarithm_of_the_choice():
    np.testing.assert_allclose(info_nce(jnp.ones((6, 3)), jnp.ones((6, 3)), 0.1), np.full(6, np.log(6)), rtol=1e-5)


def test_barlow_by_hand():
    a = jnp.array([1.0, 1.0, -1.0, -1.0])
    b = jnp.array([1.0, -1.0, 1.0, -1.0])
    both = jnp.stack([a, b], -1)
    np.testing.assert_allclose(barlow_twins(both, both, 0.1), 0.0, atol=1e-6)
    # The second entry is redundant: C = [[1, 1], [1, 1]]; and swapped: C = [[0, 1], [1, 0]].
    same = jnp.stack([a, a], -1)
    np.testing.assert_allclose(barlow_twins(same, same, 0.1), 0.2, rtol=1e-3)
    np.testing.assert_allclose(barlow_twins(both, both[:, ::-1], 0.1), 2 + 0.2, rtol=1e-3)


@pytest.mark.parametrize("loss", [lambda x, y: info_nce(x, y, 0.1).mean(), lambda x, y: barlow_twins(x, y, 0.1)])
@pytest.mark.parametrize("alike", [jnp.zeros, jnp.ones])
def test_gradients_are_finite_where_nothing_differs(loss, alike):
    """A batch of blank pictures must not spoil an update."""
    other = jax.random.normal(jax.random.key(0), (6, 3))
    for grad in jax.grad(loss, argnums=(0, 1))(alike((6, 3)), other):
        assert np.isfinite(grad).all()


@pytest.mark.parametrize("objective", ["infonce", "barlow"])
def test_each_step_has_a_loss_that_falls_where_vectors_agree(objective):
    one, two = jax.random.normal(jax.random.key(0), (2, 4, 5, 8))
    loss = lambda x, y: misalignment(objective, AlignmentConfig(), x, y)
    assert loss(one, two).shape == (4, 5)
    assert loss(one, one).mean() < 0.5 * loss(one, two).mean()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"size": 1}, "alignment.size must be at least 2; got 1"),
        ({"scale": -1.0}, "alignment.scale must be at least 0"),
        ({"redundancy": -1.0}, "alignment.redundancy must be at least 0"),
        ({"temperature": 0.0}, "alignment.temperature must be above 0"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        check("infonce", dataclasses.replace(AlignmentConfig(), **changes))
    with pytest.raises(UserError, match=r"worldmodel.objective 'guess'"):
        check("guess", AlignmentConfig())
