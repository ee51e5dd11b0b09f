import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mbrl.core.optim import OptimConfig, clip_by_agc, make_optimiser, scale_by_laprop
from mbrl.core.rows import WIDTH, Rows

SHAPES = st.lists(
    st.sampled_from([(), (1,), (3,), (0,), (2, 3), (WIDTH,), (WIDTH + 1,), (3, WIDTH), (40, 10)]), max_size=6
)


def random_tree(shapes, seed):
    rng = np.random.default_rng(seed)
    return {f"w{i}": jnp.asarray(rng.normal(size=shape), jnp.float32) for i, shape in enumerate(shapes)}


@hypothesis.settings(max_examples=8)
@hypothesis.given(shapes=SHAPES, seed=st.integers(0, 2**31 - 1))
def test_what_is_packed_comes_back(shapes, seed):
    tree = random_tree(shapes, seed)
    rows = Rows(tree)
    packed = rows.pack(tree)
    chex.assert_trees_all_equal(rows.unpack(packed), tree)
    # What fills the rows up is zero, so that sums over rows are sums over tensors.
    np.testing.assert_allclose((packed**2).sum(), sum((leaf**2).sum() for leaf in tree.values()), rtol=1e-5)


@hypothesis.settings(max_examples=8)
@hypothesis.given(shapes=SHAPES, seed=st.integers(0, 2**31 - 1))
def test_norms_are_those_of_each_tensor(shapes, seed):
    tree = random_tree(shapes, seed)
    rows = Rows(tree)
    expected = jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.linalg.norm(leaf)), tree)
    packed = rows.pack(tree)
    got = rows.unpack(jnp.broadcast_to(rows.norms(packed), packed.shape))
    chex.assert_trees_all_close(got, expected, rtol=1e-5)


def test_layout_by_hand():
    rows = Rows({"a": jnp.zeros((2, 2)), "b": jnp.zeros(WIDTH + 1)})
    packed = rows.pack({"a": jnp.array([[3.0, 0.0], [0.0, 4.0]]), "b": jnp.ones(WIDTH + 1)})
    # a: one row of 3, 0, 0, 4 and zeros; b: a row of ones, and a last one that begins the third row.
    assert packed.shape == (3, WIDTH)
    np.testing.assert_array_equal(packed[0, :5], [3, 0, 0, 4, 0])
    np.testing.assert_array_equal(packed.sum(1), [7, WIDTH, 1])
    np.testing.assert_allclose(rows.norms(packed)[:, 0], [5, np.sqrt(WIDTH + 1), np.sqrt(WIDTH + 1)], rtol=1e-6)


@pytest.mark.parametrize("optimiser", ["laprop", "adam"])
def test_the_optimiser_on_rows_is_the_one_on_each_tensor(optimiser):
    config = OptimConfig(learning_rate=0.01, optimiser=optimiser, agc=0.3, warmup=0)
    normaliser = {"laprop": scale_by_laprop, "adam": optax.scale_by_adam}[optimiser]
    plain = optax.chain(
        clip_by_agc(config.agc, config.agc_eps),
        normaliser(config.beta1, config.beta2, config.eps),
        optax.scale_by_learning_rate(config.learning_rate),
    )
    ours = make_optimiser(config)
    params = random_tree([(3,), (40, 10), (), (WIDTH, 3)], 0)
    states = [plain.init(params), ours.init(params)]
    for seed in range(1, 4):
        grads = jax.tree.map(lambda leaf: 10 * leaf, random_tree([leaf.shape for leaf in params.values()], seed))
        expected, states[0] = plain.update(grads, states[0], params)
        updates, states[1] = ours.update(grads, states[1], params)
        chex.assert_trees_all_close(updates, expected, rtol=1e-4, atol=1e-7)
        params = optax.apply_updates(params, updates)


def test_the_optimiser_needs_the_parameters():
    optimiser = make_optimiser(OptimConfig())
    params = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"call update\(grads, state, params\)"):
        optimiser.update(params, optimiser.init(params))
