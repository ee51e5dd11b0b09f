import math

import jax
import numpy as np
import pytest
from dm_env import specs

from mbrl.agents.dreamer import Dreamer, DreamerConfig, resolve
from mbrl.behaviours.actor_critic import ActorCriticConfig
from mbrl.worldmodels.rssm import RSSMConfig
from mbrl.worldmodels.sizes import SIZES

OBSERVATION, ACTION = specs.Array((24,), np.float32), specs.BoundedArray((6,), np.float32, -1.0, 1.0)


def counts(config, observation=OBSERVATION):
    """Return how many numbers each network has, without drawing any."""
    params = jax.eval_shape(Dreamer(config, observation, ACTION).init, jax.random.key(0)).params
    networks = params["model"] | {"actor": params["actor"], "critic": params["critic"]}
    return {name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(net)) for name, net in networks.items()}


def standard(inputs, units):
    return inputs * units + 2 * units  # weights, biases, norm scales


def test_the_dynamics_by_hand():
    # 1m: state 512 in 8 blocks of 64, 32 variables of 4 classes, units 64. Three projections to 64; a block layer from
    # 64 own and 192 shared inputs; its norm; three gates of block layers.
    projections = standard(512, 64) + standard(128, 64) + standard(6, 64)
    hidden = 8 * 64 * 64 + 192 * 512 + 512 + 512
    gates = 3 * (8 * 64 * 64 + 512)
    assert counts(DreamerConfig(size="1m"))["dynamics"] == projections + hidden + gates == 273_664


@pytest.mark.parametrize(("size", "published"), [("1m", 640_867), ("12m", 9_738_019)])
def test_as_many_parameters_as_dreamer_v3(size, published):
    # Counted in danijar/dreamerv3 itself, the slow critic left out: not one more or less.
    assert sum(counts(DreamerConfig(size=size)).values()) == published


def test_as_many_parameters_as_dreamer_v3_with_images():
    image = specs.BoundedArray((64, 64, 3), np.uint8, 0, 255)
    found = counts(DreamerConfig(size="1m"), image)
    assert sum(found.values()) == 686_846
    # Kernels of 5 x 5 from 3 channels to 8, 12, 16, 16; a bias and a norm scale each.
    assert found["encoder_state"] == 25 * (3 * 8 + 8 * 12 + 12 * 16 + 16 * 16) + 2 * (8 + 12 + 16 + 16)


@pytest.mark.parametrize(
    ("size", "millions"),
    [("25m", 21.8), ("50m", 38.6), ("100m", 86.6), ("200m", 154), ("400m", 345)],
)
def test_the_larger_presets(size, millions):
    assert sum(counts(DreamerConfig(size=size)).values()) / 1e6 == pytest.approx(millions, rel=3e-3)


@pytest.mark.parametrize("size", SIZES)
def test_a_size_fills_what_is_not_set(size):
    widths, config = SIZES[size], resolve(DreamerConfig(size=size))
    model = config.worldmodel
    assert (model.deter, model.classes) == (widths.deter, widths.classes)
    assert model.hidden == model.units == config.behaviour.units == widths.units
    assert model.stoch == 32
    assert resolve(config) == config


def test_what_is_set_stays():
    set_by_hand = DreamerConfig(
        size="12m", worldmodel=RSSMConfig(deter=64, classes=2), behaviour=ActorCriticConfig(units=7)
    )
    config = resolve(set_by_hand)
    assert (config.worldmodel.deter, config.worldmodel.classes, config.behaviour.units) == (64, 2, 7)
    assert (config.worldmodel.hidden, config.worldmodel.units) == (256, 256)
