import dataclasses

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mbrl.core.errors import UserError
from mbrl.core.optim import OptimConfig, clip_by_agc, make_optimiser, scale_by_laprop

PLAIN = OptimConfig(learning_rate=0.1, agc=1e6, warmup=0)


def numpy_chain(config, params, grads):
    """The whole optimiser once more, in numpy and float64, for one tensor; yields the parameters after each step."""
    n, m, theta = np.zeros_like(params), np.zeros_like(params), params.copy()
    for t, g in enumerate(grads, start=1):
        bound = config.agc * max(config.agc_eps, np.sqrt((theta**2).sum()))
        norm = np.sqrt((g**2).sum())
        g = g * bound / norm if norm > bound else g
        n = config.beta2 * n + (1 - config.beta2) * g**2
        root = np.sqrt(n / (1 - config.beta2**t)) + config.eps
        if config.optimiser == "laprop":
            m = config.beta1 * m + (1 - config.beta1) * g / root
            step = m / (1 - config.beta1**t)
        else:
            m = config.beta1 * m + (1 - config.beta1) * g
            step = m / (1 - config.beta1**t) / root
        warm = min(1.0, t / config.warmup) if config.warmup else 1.0
        theta = theta - config.learning_rate * warm * step
        yield theta


def run(optimiser, params, grads):
    state = optimiser.init(params)
    update = jax.jit(optimiser.update)
    for g in grads:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
        yield params


def test_agc_by_hand():
    # ‖θ‖ = 5, so at most .3·5 = 1.5 passes. ‖(6, 8)‖ = 10: times .15. ‖(.6, .8)‖ = 1: unchanged.
    # ‖0‖ counts as .001: at most .0003 passes of ‖(3, 4)‖ = 5: times .00006. A gradient of 0 stays 0.
    five, zero = jnp.array([3.0, 4.0]), jnp.zeros(2)
    params = {"large": five, "small": five, "zero": zero, "still": five}
    grads = {"large": 2 * five, "small": 0.2 * five, "zero": five, "still": zero}
    clipped, _ = clip_by_agc(0.3, 1e-3).update(grads, optax.EmptyState(), params)
    expected = {"large": [0.9, 1.2], "small": [0.6, 0.8], "zero": [0.00018, 0.00024], "still": [0.0, 0.0]}
    for name, value in expected.items():
        np.testing.assert_allclose(clipped[name], value, rtol=1e-6, err_msg=name)


def test_agc_needs_the_parameters():
    with pytest.raises(ValueError, match="needs the parameters"):
        clip_by_agc(0.3, 1e-3).update({"w": jnp.ones(2)}, optax.EmptyState())


def test_agc_of_a_norm_that_overflows_is_finite():
    clipped, _ = clip_by_agc(0.3, 1e-3).update(jnp.full(2, 1e30), optax.EmptyState(), jnp.ones(2))
    assert np.isfinite(clipped).all()


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    shape=st.sampled_from([(), (1,), (3,), (2, 3), (2, 3, 4)]),
    size=st.floats(-6, 6),
    seed=st.integers(0, 2**31 - 1),
)
def test_agc_bounds_the_norm_and_keeps_the_direction(shape, size, seed):
    rng = np.random.default_rng(seed)
    theta = jnp.asarray(rng.normal(size=shape), jnp.float32)
    g = jnp.asarray(rng.normal(size=shape) * 10**size, jnp.float32)
    clipped, _ = clip_by_agc(0.3, 1e-3).update(g, optax.EmptyState(), theta)
    bound = 0.3 * max(1e-3, float(jnp.linalg.norm(theta)))
    before, after = float(jnp.linalg.norm(g)), float(jnp.linalg.norm(clipped))
    np.testing.assert_allclose(after, min(before, bound), rtol=1e-4)
    np.testing.assert_allclose(clipped, g * (after / before), rtol=1e-4)


def test_laprop_by_hand_and_unlike_adam():
    # β1 = 1/2, β2 = 3/4, gradients 2, -4.
    # t = 1: n = 1/4·4 = 1, n/(1 - 3/4) = 4, u = 2/2 = 1; m = 1/2, m/(1/2) = 1.
    # t = 2: n = 3/4 + 1/4·16 = 4.75, n/(1 - 9/16) = 76/7, u = -4/√(76/7) = -1.2139540;
    #        m = 1/4 - 1.2139540/2 = -.3569770, m/(3/4) = -.4759693.
    # Adam:  m = 1, then 1/2 - 2 = -1.5, m/(3/4) = -2, update = -2/√(76/7) = -.6069770.
    laprop, adam = scale_by_laprop(0.5, 0.75, 1e-20), optax.scale_by_adam(0.5, 0.75, 1e-20)
    steps = {}
    for name, optimiser in {"laprop": laprop, "adam": adam}.items():
        state, steps[name] = optimiser.init(jnp.float32(0)), []
        for g in (2.0, -4.0):
            update, state = optimiser.update(jnp.float32(g), state)
            steps[name].append(float(update))
    np.testing.assert_allclose(steps["laprop"], [1.0, -0.4759693], rtol=1e-6)
    np.testing.assert_allclose(steps["adam"], [1.0, -0.6069770], rtol=1e-6)


def test_laprop_survives_a_jump_that_adam_does_not():
    # After gradients of 1, one of 1000 at β1 > β2: LaProp's step stays below √(1/(1 - β2)) = √2 ≈ 1.41 in any case,
    # while Adam's, as the small gradients return, divides the momentum that remembers 1000 by a mean that forgot it.
    grads = [1.0] * 20 + [1000.0] + [1.0] * 20
    largest = {}
    for name, optimiser in {"laprop": scale_by_laprop(0.9, 0.5, 1e-20), "adam": optax.scale_by_adam(0.9, 0.5)}.items():
        state, sizes = optimiser.init(jnp.float32(0)), []
        for g in grads:
            update, state = optimiser.update(jnp.float32(g), state)
            sizes.append(abs(float(update)))
        largest[name] = max(sizes)
    assert largest["laprop"] <= np.sqrt(2.0)
    assert largest["adam"] > 5


@pytest.mark.parametrize("optimiser", ["laprop", "adam"])
@pytest.mark.parametrize("shape", [(), (4,), (3, 2)])
def test_the_chain_against_numpy(optimiser, shape):
    config = OptimConfig(learning_rate=0.05, optimiser=optimiser, warmup=5)
    rng = np.random.default_rng(3)
    params, grads = rng.normal(size=shape), rng.normal(size=(12, *shape))
    ours = run(make_optimiser(config), jnp.asarray(params, jnp.float32), jnp.asarray(grads, jnp.float32))
    for theta, expected in zip(ours, numpy_chain(config, params, grads), strict=True):
        np.testing.assert_allclose(theta, expected, rtol=1e-4, atol=1e-5)


def test_golden():
    config = OptimConfig(learning_rate=0.01, warmup=2)
    params = jax.random.normal(jax.random.key(0), (3,))
    grads = jax.random.normal(jax.random.key(1), (3, 3))
    *_, last = run(make_optimiser(config), params, grads)
    np.testing.assert_allclose(last, [1.6355503, 1.9979806, -0.42439026], rtol=1e-5)


def test_warm_up():
    # A gradient of 1 every time makes LaProp's step 1; warm-up over 4: η/4, 2η/4, 3η/4, η, η.
    config = dataclasses.replace(PLAIN, warmup=4)
    thetas = [1.0, *map(float, run(make_optimiser(config), jnp.float32(1), [jnp.float32(1)] * 5))]
    np.testing.assert_allclose(-np.diff(thetas), [0.025, 0.05, 0.075, 0.1, 0.1], rtol=1e-4)


def test_without_warm_up_the_first_step_is_whole():
    (theta,) = run(make_optimiser(PLAIN), jnp.float32(1), [jnp.float32(1)])
    np.testing.assert_allclose(theta, 0.9, rtol=1e-5)


@pytest.mark.parametrize("power", [-8, -3, 3, 8])
def test_the_scale_of_the_loss_does_not_matter(power):
    grads = jnp.asarray(np.random.default_rng(power + 8).normal(size=(4, 3)), jnp.float32)
    optimiser = make_optimiser(dataclasses.replace(PLAIN, agc=1e12))
    *_, plain = run(optimiser, jnp.ones(3), grads)
    *_, scaled = run(optimiser, jnp.ones(3), grads * 10.0**power)
    np.testing.assert_allclose(scaled, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimiser", ["laprop", "adam"])
def test_it_finds_the_bottom_of_a_valley_a_million_times_longer_than_wide(optimiser):
    config = OptimConfig(learning_rate=0.02, optimiser=optimiser, warmup=10)
    chain = make_optimiser(config)
    stiffness = jnp.array([1.0, 1e-6])

    def step(carry, _):
        theta, state = carry
        updates, state = chain.update(stiffness * (theta - 2.0), state, theta)
        return (optax.apply_updates(theta, updates), state), None

    (theta, _), _ = jax.lax.scan(step, (jnp.ones(2), chain.init(jnp.ones(2))), None, length=600)
    np.testing.assert_allclose(theta, [2.0, 2.0], atol=0.05)


def test_compiles_once_and_its_state_can_be_donated():
    chain = make_optimiser(OptimConfig())
    params = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}
    state = chain.init(params)
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(chain.update, n=1), donate_argnums=1)
    for size in (1.0, 2.0, 3.0):
        _, state = update(jax.tree.map(lambda x: size * jnp.ones_like(x), params), state, params)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"learning_rate": 0.0}, "optim.learning_rate must be above 0 and finite, not 0.0"),
        ({"learning_rate": float("nan")}, "optim.learning_rate must be above 0 and finite, not nan"),
        ({"learning_rate": float("inf")}, "optim.learning_rate must be above 0 and finite, not inf"),
        ({"clip": float("inf")}, "optim.clip must be above 0 and finite, not inf"),
        ({"agc": -1.0}, "optim.agc must be above 0 and finite, not -1.0"),
        ({"agc_eps": 0.0}, "optim.agc_eps must be above 0 and finite, not 0.0"),
        ({"eps": -1e-8}, "optim.eps must be above 0 and finite, not -1e-08"),
        ({"beta1": 1.0}, "optim.beta1 must be at least 0 and below 1, not 1.0"),
        ({"beta2": -0.1}, "optim.beta2 must be at least 0 and below 1, not -0.1"),
        ({"warmup": -1}, "optim.warmup must be at least 0 updates, not -1"),
    ],
)
def test_bad_values_are_refused_in_a_sentence(changes, sentence):
    with pytest.raises(UserError) as error:
        make_optimiser(dataclasses.replace(OptimConfig(), **changes))
    assert str(error.value) == sentence


def test_an_unknown_optimiser_is_told_where_nothing_checks_types():
    # The tests' type checks would refuse it sooner, but a program of one's own runs without them.
    for given, hint in (("sgd", "; known are adam, laprop"), ("rmsprop", "; did you mean 'laprop'?")):
        config = OptimConfig()
        object.__setattr__(config, "optimiser", given)
        with pytest.raises(UserError) as error:
            make_optimiser(config)
        assert str(error.value) == f"unknown optim.optimiser {given!r}{hint}"


def test_all_gradients_together_are_clipped_to_a_norm_by_hand():
    # Of norm 50 = |(30, 40)|, clipped to 5: (3, 4). Adam's first step forgets sizes unless its epsilon is large.
    config = OptimConfig(learning_rate=1.0, optimiser="adam", clip=5.0, agc=None, eps=1e6, warmup=0)
    optimiser = make_optimiser(config)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    steps, _ = optimiser.update({"a": jnp.array([30.0]), "b": jnp.array([40.0])}, optimiser.init(params), params)
    np.testing.assert_allclose([steps["a"][0], steps["b"][0]], [-3e-6, -4e-6], rtol=1e-4)
