import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from mbrl.nets.blocks import MLP, BlockDense, BlockGRU, DenseNormAct, fan_in_init, from_blocks, gru_update, to_blocks


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def randomised(params):
    """Parameters of the same shapes, none of them at its special initial value."""
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(tree, [normal(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def initialised(module, *inputs):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return randomised(shapes)


def silu(x):
    return x / (1 + np.exp(-x))


def rms_norm(x, scale):
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-4) * scale


def test_the_standard_layer_by_hand():
    # (.03, .04) through the identity has mean square .00125; (.03, .04) / √(.00125 + .0001), times the scales 1 and 2,
    # through SiLU.
    params = {
        "Dense_0": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)},
        "RMSNorm_0": {"scale": jnp.array([1.0, 2.0])},
    }
    out = DenseNormAct(2).apply({"params": params}, jnp.array([0.03, 0.04]))
    np.testing.assert_allclose(out, silu(np.array([0.03, 0.08]) / np.sqrt(0.00135)), rtol=1e-5)


def test_an_mlp_without_layers_is_the_identity():
    x = normal(0, 3, 2)
    np.testing.assert_array_equal(MLP(0, 5).apply({}, x), x)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_blocks_are_cut_and_joined(lead):
    x = normal(1, *lead, 6)
    blocks = to_blocks(x, 2)
    assert blocks.shape == (2, *lead, 3)
    np.testing.assert_array_equal(blocks[1], x[..., 3:])
    np.testing.assert_array_equal(from_blocks(blocks), x)


@pytest.mark.parametrize(("blocks", "lead"), [(1, ()), (2, (3,)), (4, (2, 3))])
def test_block_dense_is_a_block_diagonal_matrix(blocks, lead):
    x, layer = normal(1, *lead, 8), BlockDense(12)
    params = initialised(layer, to_blocks(x, blocks))
    assert params["kernel"].shape == (blocks, 8 // blocks, 12 // blocks)
    dense = scipy.linalg.block_diag(*np.asarray(params["kernel"]))
    out = from_blocks(layer.apply({"params": params}, to_blocks(x, blocks)))
    np.testing.assert_allclose(out, np.asarray(x) @ dense + np.asarray(params["bias"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_a_shared_input_is_one_repeated_into_every_block(lead):
    x, shared, layer = normal(1, *lead, 6), normal(2, *lead, 5), BlockDense(4)
    params = initialised(layer, to_blocks(x, 2), shared)
    # Block g maps its own 3 entries and all 5 shared ones to its 2 outputs.
    columns = np.asarray(params["shared"]).reshape(5, 2, 2).swapaxes(0, 1)
    dense = scipy.linalg.block_diag(*np.concatenate([params["kernel"], columns], 1))
    groups = np.asarray(x).reshape(*lead, 2, 3)
    repeated = np.repeat(np.asarray(shared)[..., None, :], 2, axis=-2)
    joined = np.concatenate([groups, repeated], -1).reshape(*lead, 16)
    out = from_blocks(layer.apply({"params": params}, to_blocks(x, 2), shared))
    np.testing.assert_allclose(out, joined @ dense + np.asarray(params["bias"]), rtol=1e-4, atol=1e-5)


def test_no_gradient_crosses_blocks():
    x, shared, layer = normal(1, 6), normal(2, 5), BlockDense(4)
    params = initialised(layer, to_blocks(x, 2), shared)
    apply = lambda x, shared: from_blocks(layer.apply({"params": params}, to_blocks(x, 2), shared))
    own, common = jax.jacrev(apply, argnums=(0, 1))(x, shared)
    assert (own[:2, 3:] == 0).all()
    assert (own[2:, :3] == 0).all()
    assert (own[:2, :3] != 0).all()
    assert (own[2:, 3:] != 0).all()
    assert (common != 0).all()


def test_initial_weights_keep_the_variance_of_their_fan_in():
    # Each output sums its block's 32 inputs and the 16 shared ones: variance 1 / 48, cut at 2 standard deviations.
    params = BlockDense(512).init(jax.random.key(0), jnp.zeros((4, 32)), jnp.zeros(16))["params"]
    for name in ("kernel", "shared"):
        assert params[name].std() == pytest.approx(48**-0.5, rel=0.03)
        assert params[name].mean() == pytest.approx(0, abs=0.02 * 48**-0.5 * 3)
        assert abs(params[name]).max() == pytest.approx(2 / 0.8796 * 48**-0.5, rel=0.01)
    assert (params["bias"] == 0).all()
    # A dense layer alike; outscale multiplies the standard deviation.
    kernel = fan_in_init(0.5)(jax.random.key(0), (64, 256))
    assert kernel.std() == pytest.approx(0.5 * 64**-0.5, rel=0.03)
    assert (fan_in_init(0.0)(jax.random.key(0), (64, 256)) == 0).all()


@pytest.mark.parametrize(
    ("reset", "candidate", "update", "deter", "expected"),
    [
        # sigmoid(0) = ½ and tanh(½ · 2) = .761594; sigmoid(1 - 1) = ½: ½ · .761594 + ½ · .2
        (0.0, 2.0, 1.0, 0.2, 0.480797),
        # sigmoid(0 - 1) = .268941: the rest of the old state stays
        (0.0, 0.0, 0.0, 1.0, 0.731059),
        # a closed update keeps the state, an open one takes the candidate; a closed reset silences it
        (0.0, 9.0, -40.0, 0.3, 0.3),
        (40.0, 0.5, 40.0, 0.3, 0.462117),
        (-40.0, 9.0, 40.0, 0.3, 0.0),
    ],
)
def test_gru_update_by_hand(reset, candidate, update, deter, expected):
    new = gru_update(*(jnp.array([x]) for x in (reset, candidate, update, deter)))
    np.testing.assert_allclose(new, [expected], atol=1e-6)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_block_gru_recomputed(lead):
    deter, stoch, action, cell = normal(1, *lead, 8), normal(2, *lead, 6), normal(3, *lead, 2), BlockGRU(5, 2)
    params = jax.tree.map(np.asarray, initialised(cell, deter, stoch, action))

    def standard(p, x):
        return silu(rms_norm(x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"], p["RMSNorm_0"]["scale"]))

    def blocks(p, x):
        halves = [half @ kernel for half, kernel in zip(np.split(x, 2, -1), p["kernel"], strict=True)]
        return np.concatenate(halves, -1) + p["bias"]

    inputs = [np.asarray(x, np.float64) for x in (deter, stoch, action)]
    joined = np.concatenate([standard(params[f"DenseNormAct_{i}"], x) for i, x in enumerate(inputs)], -1)
    hidden = blocks(params["BlockDense_0"], inputs[0]) + joined @ params["BlockDense_0"]["shared"]
    hidden = silu(rms_norm(hidden, params["RMSNorm_0"]["scale"].reshape(-1)))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    reset, candidate, update = (blocks(params[f"BlockDense_{i}"], hidden) for i in (1, 2, 3))
    update = sigmoid(update - 1)
    expected = update * np.tanh(sigmoid(reset) * candidate) + (1 - update) * inputs[0]
    new = jax.jit(cell.apply)({"params": params}, deter, stoch, action)
    np.testing.assert_allclose(new, expected, rtol=1e-4, atol=1e-5)


def test_a_state_in_the_unit_box_stays_there():
    deter, cell = jnp.clip(normal(1, 64, 8), -1, 1), BlockGRU(4, 2)
    params = initialised(cell, deter, deter, deter)
    assert abs(jax.jit(cell.apply)({"params": params}, deter, 9 * deter, deter)).max() <= 1
