import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from mbrl.worldmodels.stochastic import Categorical, Gaussian

FAMILIES = [Categorical(3, 4, 0.01), Gaussian(5)]


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_categorical_statistics_by_hand():
    # Two variables of two classes, raw (0, ln 3 | 0, 0): ¼, ¾ and ½, ½; a fifth of uniform makes .3, .7.
    family = Categorical(2, 2, 0.2)
    statistics = family.statistics(jnp.array([0.0, math.log(3), 0.0, 0.0]))
    np.testing.assert_allclose(np.exp(statistics), [[0.3, 0.7], [0.5, 0.5]], rtol=1e-6)
    entropy = -(0.3 * math.log(0.3) + 0.7 * math.log(0.7)) + math.log(2)
    np.testing.assert_allclose(family.entropy(statistics), entropy, rtol=1e-6)
    # KL to uniform is ln 2 less the entropy, for each of the two.
    uniform = family.statistics(jnp.zeros(4))
    np.testing.assert_allclose(family.kl(statistics, uniform), 2 * math.log(2) - entropy, rtol=1e-5)


def test_unimix_keeps_every_class_possible():
    probs = np.exp(Categorical(3, 4, 0.01).statistics(1000 * normal(0, 6, 12)))
    assert probs.min() == pytest.approx(0.01 / 4, rel=1e-4)
    assert probs.max() == pytest.approx(1 - 0.01 * 3 / 4, rel=1e-4)


def test_gaussian_statistics_by_hand():
    # Mean 2, softplus(0) + .1 = ln 2 + .1.
    family, std = Gaussian(1), math.log(2) + 0.1
    statistics = family.statistics(jnp.array([2.0, 0.0]))
    np.testing.assert_allclose(statistics, [[2.0, std]], rtol=1e-6)
    np.testing.assert_allclose(family.sample(statistics, jnp.array([-3.0])), [2 - 3 * std], rtol=1e-6)
    np.testing.assert_allclose(family.entropy(statistics), scipy.stats.norm(2, std).entropy(), rtol=1e-6)
    # To a standard normal: -ln std + (std² + 4) / 2 - ½.
    standard = jnp.array([[0.0, 1.0]])
    np.testing.assert_allclose(family.kl(statistics, standard), -math.log(std) + std**2 / 2 + 1.5, rtol=1e-5)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("family", FAMILIES)
def test_shapes(family, lead):
    def everything(raw, key):
        statistics = family.statistics(raw)
        sample = family.sample(statistics, family.noise(key, lead))
        packed = family.pack(sample)
        return family.kl(statistics, statistics), family.entropy(statistics), sample, packed, family.unpack(packed)

    raw = jax.ShapeDtypeStruct((*lead, family.outputs), jnp.float32)
    shapes = [x.shape for x in jax.eval_shape(everything, raw, jax.random.key(0))]
    flat = (*lead, family.size)
    assert shapes == [lead, lead, flat, (*lead, family.variables), flat]


@pytest.mark.parametrize("family", FAMILIES)
def test_pack_and_unpack(family):
    statistics = family.statistics(normal(0, 2, 6, family.outputs))
    sample = family.sample(statistics, family.noise(jax.random.key(0), (2, 6)))
    packed = family.pack(sample)
    assert packed.dtype == (jnp.uint8 if isinstance(family, Categorical) else jnp.float32)
    np.testing.assert_allclose(family.unpack(packed), sample, atol=1e-6)
    np.testing.assert_array_equal(family.pack(family.unpack(packed)), packed)


def test_bytes_hold_256_classes():
    family = Categorical(1, 256, 0.0)
    np.testing.assert_array_equal(family.pack(family.unpack(jnp.array([[0], [255]], jnp.uint8))), [[0], [255]])


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_follow_their_statistics(family):
    raw = normal(1, family.outputs)
    statistics = jnp.broadcast_to(family.statistics(raw)[None], (4000, *family.statistics(raw).shape))
    samples = np.asarray(family.sample(statistics, family.noise(jax.random.key(0), (4000,))), np.float64)
    if isinstance(family, Gaussian):
        mean, std = np.asarray(statistics[0]).T
        np.testing.assert_allclose(samples.mean(0), mean, atol=4 * std.max() / 4000**0.5)
        np.testing.assert_allclose(samples.std(0), std, rtol=0.05)
    else:
        counts = np.round(samples).reshape(4000, 3, 4).sum(0)
        probs = scipy.special.softmax(np.asarray(statistics[0], np.float64), -1)
        assert scipy.stats.chisquare(counts, 4000 * probs, axis=-1).pvalue.min() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_the_raw_outputs(family):
    raw, noise = normal(0, family.outputs), family.noise(jax.random.key(0), ())
    pull = normal(1, family.size)
    grad = jax.jit(jax.grad(lambda raw: pull @ family.sample(family.statistics(raw), noise)))(raw)
    assert (grad != 0).all()
