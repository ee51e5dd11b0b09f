import math

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from mbrl.core.distributions import (
    Bernoulli,
    BinaryImage,
    ColourImage,
    Distribution,
    Gaussian,
    LaplaceImage,
    OneHot,
    Squashed,
    SymlogVector,
    TanhNormal,
    TwoHot,
    categorical_kl,
    mix_uniform,
    normal_kl,
    soft_clamp,
    straight_through,
    symexp,
    symexp_bins,
    symlog,
    two_hot,
)

E = math.e
BINS = jnp.array([-1.0, 0.0, 2.0])


def log(probs):
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(probs), jnp.float32)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_symlog_by_hand():
    # ln(1 + |x|) with the sign of x: 0, ln e = 1, -ln e² = -2.
    x = jnp.array([0.0, E - 1, 1 - E**2])
    np.testing.assert_allclose(symlog(x), [0.0, 1.0, -2.0], rtol=1e-6)
    np.testing.assert_allclose(symexp(jnp.array([0.0, 1.0, -2.0])), x, rtol=1e-6)


@hypothesis.settings(max_examples=50)
@hypothesis.given(st.floats(-1e6, 1e6, width=32))
def test_symexp_undoes_symlog(x):
    np.testing.assert_allclose(symexp(symlog(jnp.float32(x))), x, rtol=2e-6, atol=1e-7)
    assert jnp.sign(symlog(jnp.float32(x))) == np.sign(x)


def test_symlog_is_the_identity_near_zero():
    for squash in (symlog, symexp):
        slopes = [jax.grad(lambda x: squash(x))(jnp.float32(x)) for x in (1e-6, 0.0, -1e-6)]
        assert slopes == pytest.approx([1.0] * 3, abs=1e-5)


def test_bins_by_hand():
    # Evenly spaced over [-2, 2] before symexp: -2, -1, 0, 1, 2.
    np.testing.assert_allclose(symexp_bins(5, 2.0), [1 - E**2, 1 - E, 0.0, E - 1, E**2 - 1], rtol=1e-6)


@pytest.mark.parametrize("count", [3, 255])
def test_bins_are_mirrored_exactly(count):
    bins = np.asarray(symexp_bins(count))
    assert bins.shape == (count,)
    np.testing.assert_array_equal(bins, -bins[::-1])
    assert (np.diff(bins) > 0).all()
    assert bins[count // 2] == 0
    assert bins[-1] == pytest.approx(math.expm1(20), rel=1e-6)


@pytest.mark.parametrize(
    ("value", "weights"),
    [
        (0.5, [0.0, 0.75, 0.25]),  # a quarter of the way from 0 to 2
        (-0.25, [0.25, 0.75, 0.0]),
        (0.0, [0.0, 1.0, 0.0]),  # at a bin
        (-1.0, [1.0, 0.0, 0.0]),
        (2.0, [0.0, 0.0, 1.0]),
        (-7.0, [1.0, 0.0, 0.0]),  # outside
        (9.0, [0.0, 0.0, 1.0]),
    ],
)
def test_two_hot_by_hand(value, weights):
    np.testing.assert_array_equal(two_hot(jnp.float32(value), BINS), weights)


@hypothesis.settings(max_examples=50)
@hypothesis.given(st.floats(-1e5, 1e5, width=32), st.sampled_from([41, 255]))
def test_two_hot_keeps_the_value(value, count):
    bins = symexp_bins(count)
    weights = np.asarray(two_hot(jnp.float32(value), bins), np.float64)
    assert (weights >= 0).all()
    assert (weights > 0).sum() <= 2
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-6)
    # A position is a float32 below 255, so it is off by at most 255 · 2⁻²⁴ of the gap between two bins.
    gap = np.diff(bins)[np.clip(np.searchsorted(bins, value) - 1, 0, count - 2)]
    np.testing.assert_allclose(weights @ np.asarray(bins, np.float64), value, rtol=1e-6, atol=4e-5 * gap)


@pytest.mark.parametrize("shape", [(1,), (2, 1, 3)])
def test_two_hot_on_any_shape(shape):
    value = normal(0, *shape)
    weights = np.asarray(jax.jit(two_hot)(value, BINS))
    assert weights.shape == (*shape, 3)
    for entry in np.ndindex(*shape):
        np.testing.assert_array_equal(weights[entry], two_hot(value[entry], BINS))


@pytest.mark.parametrize("count", [3, 255])
def test_an_undecided_head_reads_exactly_zero(count):
    assert TwoHot(jnp.zeros(count)).mean() == 0
    # Any logits that are the same on both sides do, though the outermost bins are ±5e8.
    half = normal(0, count // 2)
    assert TwoHot(jnp.concatenate([half, jnp.ones(1), half[::-1]])).mean() == 0


def test_mean_by_hand():
    # Half on the middle bin, half on the next, symexp(20 / 127): (e^.15748 - 1) / 2.
    logits = jnp.full(255, -jnp.inf).at[127:129].set(3.0)
    np.testing.assert_allclose(TwoHot(logits).mean(), math.expm1(20 / 127) / 2, rtol=1e-5)


def test_mean_is_the_plain_expectation():
    # Bumps around bins from -500 to 500, in 64 bits.
    centre = jnp.linspace(80.0, 174.0, 12)[:, None]
    logits = -jnp.square((jnp.arange(255.0)[None] - centre) / 2)
    exact = np.exp(np.asarray(logits, np.float64))
    exact = (exact / exact.sum(-1, keepdims=True)) @ np.asarray(symexp_bins(255), np.float64)
    np.testing.assert_allclose(TwoHot(logits).mean(), exact, rtol=1e-5)


def test_two_hot_log_prob_is_minus_the_cross_entropy():
    logits = normal(0, 2, 4, 255)
    value = 30 * normal(1, 2, 4)
    target = np.asarray(jax.jit(two_hot)(value, symexp_bins(255)), np.float64)
    expected = (target * scipy.special.log_softmax(np.asarray(logits, np.float64), -1)).sum(-1)
    log_prob = jax.jit(lambda logits, value: TwoHot(logits).log_prob(value))(logits, value)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)


def test_two_hot_gradient_is_target_minus_softmax():
    logits, value = normal(0, 255), jnp.float32(-3.5)
    grad = jax.jit(jax.grad(lambda x: TwoHot(x).log_prob(value)))(logits)
    np.testing.assert_allclose(grad, two_hot(value, symexp_bins(255)) - jax.nn.softmax(logits), atol=1e-6)


def test_bernoulli_by_hand():
    # Logit ln 3 is probability ¾. Target ½: ½ ln ¾ + ½ ln ¼ = -0.836988. The gradient is target - probability.
    head = Bernoulli(jnp.log(3.0))
    assert head.mean() == pytest.approx(0.75)
    np.testing.assert_allclose(head.log_prob(jnp.float32(1)), math.log(0.75), rtol=1e-6)
    np.testing.assert_allclose(head.log_prob(jnp.float32(0)), math.log(0.25), rtol=1e-6)
    np.testing.assert_allclose(head.log_prob(jnp.float32(0.5)), -0.836988, rtol=1e-6)
    grad = jax.grad(lambda x: Bernoulli(x).log_prob(jnp.float32(0.5)))(jnp.log(3.0))
    np.testing.assert_allclose(grad, -0.25, rtol=1e-6)


def test_symlog_vector_by_hand():
    # Targets are 1 and -2 in symlog space: -((3 - 1)² + (-2 + 2)²) = -4; the mean is in plain units.
    head = SymlogVector(jnp.array([[3.0, -2.0]]))
    np.testing.assert_allclose(head.log_prob(jnp.array([[E - 1, 1 - E**2]])), [-4.0], rtol=1e-5)
    np.testing.assert_allclose(head.mean(), [[E**3 - 1, 1 - E**2]], rtol=1e-6)


@pytest.mark.parametrize("head", [TwoHot(jnp.zeros(3)), Bernoulli(jnp.zeros(2)), SymlogVector(jnp.zeros(2))])
def test_heads_are_distributions(head):
    assert isinstance(head, Distribution)


def test_mix_uniform_by_hand():
    # softmax(0, ln 3) = ¼, ¾; with a fifth of uniform: .8 · ¼ + .1 = .3 and .8 · ¾ + .1 = .7.
    np.testing.assert_allclose(jnp.exp(mix_uniform(log([1.0, 3.0]), 0.2)), [0.3, 0.7], rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(mix_uniform(log([1.0, 3.0]), 0.0)), [0.25, 0.75], rtol=1e-6)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 8)])
def test_mix_uniform_never_falls_below_its_share(shape):
    logits = 100 * normal(0, *shape)
    probs = np.exp(jax.jit(lambda x: mix_uniform(x, 0.01))(logits))
    assert probs.min() == pytest.approx(0.01 / shape[-1], rel=1e-5)
    np.testing.assert_allclose(probs.sum(-1), np.ones(shape[:-1]), rtol=1e-5)


def test_straight_through_inverts_the_cumulative_distribution():
    # Cumulative .1, .3, .6, 1: the first above the noise is chosen.
    log_probs = log([[0.1, 0.2, 0.3, 0.4]] * 5)
    sample = straight_through(log_probs, jnp.array([0.0, 0.05, 0.15, 0.35, 0.65]))
    np.testing.assert_allclose(sample, np.eye(4)[[0, 0, 1, 2, 3]], atol=1e-6)


def test_straight_through_frequencies():
    probs, draws = np.array([0.1, 0.2, 0.3, 0.4]), 20_000
    noise = jax.random.uniform(jax.random.key(0), (draws,))
    sample = np.asarray(straight_through(log(np.tile(probs, (draws, 1))), noise))
    np.testing.assert_allclose(sample.max(-1), 1.0, rtol=1e-6)  # one-hot: one 1 …
    assert (np.sort(sample)[:, :-1] == 0).all()  # … and else 0
    assert scipy.stats.chisquare(np.round(sample).sum(0), draws * probs).pvalue > 0.01
    shifted = np.roll(probs, 1)  # the test can fail
    assert scipy.stats.chisquare(np.round(sample).sum(0), draws * shifted).pvalue < 1e-9


def test_straight_through_gradient_is_that_of_the_probabilities():
    logits, noise = normal(0, 3, 5), jnp.array([0.1, 0.5, 0.9])
    pull = normal(2, 3, 5)
    log_probs = jax.nn.log_softmax(logits)
    sampled = jax.jit(jax.grad(lambda x: (pull * straight_through(x, noise)).sum()))(log_probs)
    expected = jax.jit(jax.grad(lambda x: (pull * jnp.exp(x)).sum()))(log_probs)
    chex.assert_trees_all_equal(sampled, expected)


@pytest.mark.parametrize("classes", [3, 64])
def test_straight_through_at_the_edges_of_the_noise(classes):
    log_probs = jax.nn.log_softmax(normal(classes, 50, classes))
    almost_one = jnp.full(50, 1 - 2**-24)
    sample = jax.jit(straight_through)
    last = np.asarray(sample(log_probs, almost_one))
    np.testing.assert_allclose(last[:, -1], np.ones(50), rtol=1e-6)
    np.testing.assert_allclose(last.sum(-1), np.ones(50), rtol=1e-6)
    first = sample(log_probs, jnp.zeros(50))
    np.testing.assert_allclose(first[:, 0], np.ones(50), rtol=1e-6)


def test_an_impossible_class_is_never_drawn():
    sample = straight_through(log([[0.0, 1.0], [1.0, 0.0]]), jnp.array([0.0, 1 - 2**-23]))
    np.testing.assert_array_equal(sample, [[0.0, 1.0], [1.0, 0.0]])


def test_categorical_kl_by_hand():
    # ½ ln(½ / ¼) + ½ ln(½ / ¾) = ½ ln(4 / 3); the other way round ¼ ln ½ + ¾ ln(3 / 2).
    p, q = log([[0.5, 0.5]]), log([[0.25, 0.75]])
    np.testing.assert_allclose(categorical_kl(p, q), [math.log(4 / 3) / 2], rtol=1e-5)
    np.testing.assert_allclose(categorical_kl(q, p), [math.log(0.5) / 4 + 0.75 * math.log(1.5)], rtol=1e-5)
    np.testing.assert_allclose(categorical_kl(p, p), [0.0], atol=1e-7)


def test_normal_kl_by_hand():
    # With means m and deviations s: ln(s_q / s_p) + (s_p² + (m_p - m_q)²) / (2 s_q²) - ½ = -ln 2 + (4 + 1) / 2 - ½.
    p, q = (jnp.array([1.0]), jnp.array([2.0])), (jnp.array([0.0]), jnp.array([1.0]))
    np.testing.assert_allclose(normal_kl(p, q), [2 - math.log(2)], rtol=1e-6)
    np.testing.assert_allclose(normal_kl(p, p), [0.0], atol=1e-7)


def test_squashed_against_scipy():
    loc, scale = jnp.array([[0.3, -0.9], [0.0, 1.0]]), jnp.array([[0.1, 1.0], [0.5, 0.2]])
    action = jnp.array([[0.2, -1.5], [1.0, 0.9]])
    oracle = scipy.stats.norm(np.asarray(loc), np.asarray(scale))
    policy = Squashed(loc, scale)
    np.testing.assert_allclose(policy.log_prob(action), oracle.logpdf(action).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(policy.entropy(), oracle.entropy().sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(policy.mode(), loc)


def test_squashed_sample_is_reparameterised():
    # a = loc + scale · noise, the noise from the key alone: da/dloc = 1, da/dscale = noise.
    key, loc, scale = jax.random.key(0), jnp.array([0.3, -0.9]), jnp.array([0.1, 2.0])
    noise = Squashed(jnp.zeros(2), jnp.ones(2)).sample(key)
    np.testing.assert_allclose(Squashed(loc, scale).sample(key), loc + scale * noise, rtol=1e-6)
    grads = jax.grad(lambda *p: Squashed(*p).sample(key).sum(), argnums=(0, 1))(loc, scale)
    np.testing.assert_allclose(grads, [np.ones(2), noise], rtol=1e-6)
    draws = Squashed(jnp.full(4000, 0.5), jnp.full(4000, 0.2)).sample(key)
    assert scipy.stats.kstest(np.asarray(draws), scipy.stats.norm(0.5, 0.2).cdf).pvalue > 0.01


def test_soft_clamp_by_hand():
    # softplus(0) = ln 2: at the upper bound x is bent to high - ln 2, here 5 - .693 above the lower, which adds e^-4.3.
    ln2 = math.log(2)
    expected = 5 - ln2 + math.log1p(math.exp(ln2 - 5))
    np.testing.assert_allclose(soft_clamp(jnp.float32(5.0), 0.0, 5.0), expected, rtol=1e-6)
    # Far inside nothing is changed; far outside it is the bound, the upper one passed by ln(1 + e^-20).
    np.testing.assert_allclose(soft_clamp(jnp.array([-99.0, 1.0, 99.0]), -10.0, 10.0), [-10, 1, 10], atol=2e-4)
    # Every entry has bounds of its own, and the bounds a gradient.
    low, high = jnp.array([0.0, -30.0]), jnp.array([1.0, 30.0])
    grad = jax.grad(lambda low: soft_clamp(jnp.full((3, 2), -5.0), low, high).sum())(low)
    assert grad[0] == pytest.approx(3, rel=0.02)
    assert abs(grad[1]) < 1e-6


@hypothesis.settings(max_examples=50)
@hypothesis.given(st.floats(-50, 50, width=32), st.floats(-8, 0, width=32), st.floats(1, 8, width=32))
def test_soft_clamp_stays_between_its_bounds_and_keeps_the_order(x, low, high):
    ours, above = soft_clamp(jnp.array([x, x + 0.5], jnp.float32), low, high)
    assert low <= ours <= above <= high + math.exp(low - high) + 1e-5


def test_gaussian_against_scipy():
    head = Gaussian(jnp.array([0.5, -2.0]), jnp.array([0.1, 3.0]))
    value = np.array([0.4, 4.0], np.float32)
    oracle = scipy.stats.norm(np.asarray(head.loc), np.asarray(head.scale))
    np.testing.assert_allclose(head.log_prob(jnp.asarray(value)), oracle.logpdf(value), rtol=1e-5)
    np.testing.assert_array_equal(head.mean(), head.loc)


def test_tanh_normal_by_hand():
    # u = 1 under Normal(0, 1), a = tanh 1: log Normal(1; 0, 1) - log(1 - tanh(1)^2).
    action = jnp.tanh(jnp.ones((1, 1)))
    expected = scipy.stats.norm.logpdf(1.0) - math.log(1 - math.tanh(1) ** 2)
    policy = TanhNormal(jnp.zeros((1, 1)), jnp.ones((1, 1)))
    np.testing.assert_allclose(policy.log_prob(action), [expected], rtol=1e-5)
    np.testing.assert_allclose(TanhNormal(jnp.array([0.5]), jnp.ones(1)).mode(), [math.tanh(0.5)], rtol=1e-6)


def test_tanh_normal_is_a_density():
    # It integrates to 1 over [-1, 1], one dimension by quadrature of the log-density as it is given.
    edges = np.linspace(-1, 1, 20_001)
    middle = jnp.asarray((edges[1:] + edges[:-1]) / 2, jnp.float32)[:, None]
    policy = TanhNormal(jnp.full((20_000, 1), 0.4), jnp.full((20_000, 1), 0.6))
    assert np.exp(np.asarray(policy.log_prob(middle), np.float64)).sum() * 1e-4 == pytest.approx(1, rel=1e-3)


def test_tanh_normal_samples_with_their_density():
    loc, scale = jnp.array([[0.3, -0.9]] * 500), jnp.array([[0.1, 1.2]] * 500)
    action, log_prob = TanhNormal(loc, scale).sample_and_log_prob(jax.random.key(0))
    np.testing.assert_allclose(log_prob, TanhNormal(loc, scale).log_prob(action), rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(action, TanhNormal(loc, scale).sample(jax.random.key(0)))
    drawn = np.arctanh(np.asarray(action[:, 1], np.float64))
    assert scipy.stats.kstest(drawn, scipy.stats.norm(-0.9, 1.2).cdf).pvalue > 0.01
    # It is reparameterised, and its slope is that of tanh.
    grad = jax.grad(lambda loc: TanhNormal(loc, scale).sample(jax.random.key(0)).sum())(loc)
    np.testing.assert_allclose(grad, 1 - action**2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loc", [-30.0, 12.0, 80.0])
def test_tanh_normal_is_finite_where_it_saturates(loc):
    # 1 - tanh(u)^2 is 4 e^-2|u| there, and 0 in float32; with u = loc, log p = -ln sqrt(2 pi) - ln 4 + 2|u|.
    policy = lambda loc: TanhNormal(loc, jnp.ones_like(loc))
    at = jnp.full((1, 1), loc)
    log_prob = policy(at)._log_prob(at)
    np.testing.assert_allclose(log_prob, [-0.5 * math.log(2 * math.pi) - math.log(4) + 2 * abs(loc)], rtol=1e-5)
    grads = jax.grad(lambda loc: policy(loc).sample_and_log_prob(jax.random.key(0))[1].sum())(at)
    np.testing.assert_allclose(grads, [[2.0 * np.sign(loc)]], rtol=1e-5)
    # Of an action alone, ±1 is as much as float32 can say of it.
    assert np.isfinite(policy(at).log_prob(jnp.sign(at))).all()


def test_one_hot_against_scipy():
    probs = np.array([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]])
    policy = OneHot(log(probs))
    np.testing.assert_array_equal(policy.mode(), [[0, 0, 1], [1, 0, 0]])
    action = jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    expected = [scipy.stats.multinomial(1, p).logpmf(a) for p, a in zip(probs, np.asarray(action), strict=True)]
    np.testing.assert_allclose(policy.log_prob(action), expected, rtol=1e-5)
    np.testing.assert_allclose(policy.entropy(), scipy.stats.entropy(probs, axis=-1), rtol=1e-5)


def test_one_hot_sample_and_its_gradients():
    logits, draws = jnp.array([0.0, 1.0, -1.0]), 4000
    probs = jax.nn.softmax(logits)
    sample = OneHot(jnp.broadcast_to(jax.nn.log_softmax(logits), (draws, 3))).sample(jax.random.key(0))
    assert scipy.stats.chisquare(np.round(sample).sum(0), draws * np.asarray(probs, np.float64)).pvalue > 0.01
    # Straight through: d(w·a)/dlogits = p (w - w·p); and a given action is data, so nothing flows back into it.
    pull = jnp.array([1.0, 2.0, 4.0])
    grad = jax.jit(jax.grad(lambda x: pull @ OneHot(jax.nn.log_softmax(x)).sample(jax.random.key(1))))(logits)
    np.testing.assert_allclose(grad, probs * (pull - pull @ probs), rtol=1e-5)
    log_prob = lambda a: OneHot(jax.nn.log_softmax(logits)).log_prob(a)
    np.testing.assert_array_equal(jax.grad(log_prob)(jnp.array([0.0, 1.0, 0.0])), np.zeros(3))


def test_images_by_hand():
    pixels = jnp.array([0, 255, 51], jnp.uint8).reshape(1, 3, 1)
    half = jnp.full((1, 3, 1), 0.5)
    np.testing.assert_allclose(ColourImage(half).log_prob(pixels), -(0.25 + 0.25 + 0.09), rtol=1e-6)
    np.testing.assert_allclose(LaplaceImage(half).log_prob(pixels), -(0.5 + 0.5 + 0.3), rtol=1e-6)
    for image in (ColourImage, LaplaceImage):
        np.testing.assert_allclose(image(half).mean(), 127.5)
    bits = jnp.array([0, 1, 1], jnp.uint8).reshape(1, 3, 1)
    logits = jnp.log(jnp.array([1.0, 1.0, 3.0])).reshape(1, 3, 1)  # probabilities 1/2, 1/2, 3/4
    np.testing.assert_allclose(BinaryImage(logits).log_prob(bits), np.log(0.5 * 0.5 * 0.75), rtol=1e-6)
    np.testing.assert_allclose(BinaryImage(logits).mean().ravel(), [0.5, 0.5, 0.75], rtol=1e-6)
