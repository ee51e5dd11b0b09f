import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl.core.returns import lambda_return

REWARD = jnp.array([1.0, 2.0, 3.0])
HALF = jnp.full(3, 0.5)
VALUE = jnp.array([9.0, 4.0, 8.0, 16.0])


def forward_view(reward, discount, value, lam, t):
    """G_t as the weighted mean of all n-step returns: (1 - λ) Σ_n λ^{n-1} G^(n), the rest on the longest."""
    n_step, total, carried = [], 0.0, 1.0
    for k in range(t, len(reward)):
        total += carried * reward[k]
        carried *= discount[k]
        n_step.append(total + carried * value[k + 1])
    weights = [(1 - lam) * lam**n for n in range(len(n_step) - 1)] + [lam ** (len(n_step) - 1)]
    return np.dot(weights, n_step)


@pytest.mark.parametrize(
    ("lam", "expected"),
    [
        # one step: 1 + .5·4, 2 + .5·8, 3 + .5·16
        (0.0, [3.0, 6.0, 11.0]),
        # G_2 = 3 + .5(.5·16 + .5·16) = 11; G_1 = 2 + .5(.5·8 + .5·11) = 6.75; G_0 = 1 + .5(.5·4 + .5·6.75)
        (0.5, [3.6875, 6.75, 11.0]),
        # all rewards, then the value: G_2 = 3 + .5·16 = 11; G_1 = 2 + .5·11 = 7.5; G_0 = 1 + .5·7.5
        (1.0, [4.75, 7.5, 11.0]),
    ],
)
def test_lambda_return_by_hand(lam, expected):
    np.testing.assert_allclose(lambda_return(REWARD, HALF, VALUE, lam), expected, rtol=1e-6)


def test_nothing_flows_back_across_a_terminal():
    # d_2 = 0: G_1 = 2 alone, whatever follows; G_0 = 1 + .5(.5·4 + .5·2) = 2.5; G_2 = 3 + .5·16 = 11 is untouched.
    discount = jnp.array([0.5, 0.0, 0.5])
    np.testing.assert_allclose(lambda_return(REWARD, discount, VALUE, 0.5), [2.5, 2.0, 11.0], rtol=1e-6)


def test_the_first_value_is_not_used():
    other = VALUE.at[0].set(-100.0)
    chex.assert_trees_all_equal(lambda_return(REWARD, HALF, VALUE, 0.5), lambda_return(REWARD, HALF, other, 0.5))


def test_gradient_by_hand():
    # λ = .5, d = .5: G_0 = r_1 + .5(.5 V_1 + .5(r_2 + .5(.5 V_2 + .5(r_3 + .5 V_3)))).
    grads = jax.grad(lambda r, v: lambda_return(r, HALF, v, 0.5)[0], argnums=(0, 1))(REWARD, VALUE)
    np.testing.assert_allclose(grads[0], [1.0, 0.25, 0.0625], rtol=1e-6)
    np.testing.assert_allclose(grads[1], [0.0, 0.25, 0.0625, 0.03125], rtol=1e-6)


def test_golden():
    key_r, key_d, key_v = jax.random.split(jax.random.key(0), 3)
    reward, value = jax.random.normal(key_r, (4,)), jax.random.normal(key_v, (5,))
    discount = jax.random.uniform(key_d, (4,))
    golden = [0.9980409, -0.9333891, -1.3414863, -1.0335277]
    np.testing.assert_allclose(lambda_return(reward, discount, value, 0.95), golden, rtol=1e-5)


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    horizon=st.integers(1, 6),
    batch=st.sampled_from([(), (1,), (3,), (2, 3)]),
    lam=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    seed=st.integers(0, 2**31 - 1),
)
def test_equals_the_forward_view_on_any_shape(horizon, batch, lam, seed):
    rng = np.random.default_rng(seed)
    reward, value = rng.normal(size=(horizon, *batch)), rng.normal(size=(horizon + 1, *batch))
    discount = rng.uniform(0, 1, size=(horizon, *batch)) * rng.integers(0, 2, size=(horizon, *batch))
    returns = lambda_return(*(jnp.asarray(x, jnp.float32) for x in (reward, discount, value)), lam)
    for entry in np.ndindex(horizon, *batch):
        t, column = entry[0], (slice(None), *entry[1:])
        expected = forward_view(reward[column], discount[column], value[column], lam, t)
        np.testing.assert_allclose(returns[entry], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_a_true_value_is_its_own_target(lam):
    # Reward 1 for ever at discount .9 is worth 10 in every state.
    returns = lambda_return(jnp.ones(5), jnp.full(5, 0.9), jnp.full(6, 10.0), lam)
    np.testing.assert_allclose(returns, np.full(5, 10.0), rtol=1e-5)


def test_trailing_axes_are_a_vmap():
    reward, discount, value = jnp.ones((3, 2)) * jnp.arange(1.0, 3.0)[None], jnp.full((3, 2), 0.9), jnp.ones((4, 2))
    mapped = jax.vmap(lambda *x: lambda_return(*x, 0.5), in_axes=1, out_axes=1)(reward, discount, value)
    np.testing.assert_allclose(lambda_return(reward, discount, value, 0.5), mapped, rtol=1e-6)


def test_lambda_that_differs_cuts_the_return_at_a_truncation():
    # λ_2 = 0: G_1 = 2 + .5·8 = 6 forgets what follows s_2, though d_2 = .5; G_0 = 1 + .5(.5·4 + .5·6) = 3.5.
    lam = jnp.array([0.5, 0.0, 0.5])
    np.testing.assert_allclose(lambda_return(REWARD, HALF, VALUE, lam), [3.5, 6.0, 11.0], rtol=1e-6)


def test_compiles_once():
    chex.clear_trace_counter()
    jitted = jax.jit(chex.assert_max_traces(lambda_return, n=1))
    for lam in (0.0, 0.5, 1.0):
        jitted(REWARD, HALF, VALUE, lam)
