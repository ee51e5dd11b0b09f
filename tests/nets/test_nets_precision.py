"""bfloat16 between float32 doors."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.agents.dreamer import DreamerConfig, make
from mbrl.behaviours.actor_critic import ActorCriticConfig
from mbrl.core.errors import UserError
from mbrl.core.types import Sequence, TimeStep
from mbrl.nets import precision
from mbrl.nets.blocks import BlockGRU
from mbrl.nets.heads import Head
from mbrl.worldmodels.rssm import RSSMConfig

MODEL = RSSMConfig(deter=16, hidden=8, units=8, stoch=3, classes=4, blocks=2, bins=11, encoder_layers=1,
                   decoder_layers=1, prior_layers=1)
BEHAVIOUR = ActorCriticConfig(units=8, horizon=2, bins=11, actor_layers=1, critic_layers=1)
CONFIG = DreamerConfig(worldmodel=MODEL, behaviour=BEHAVIOUR)
OBSERVATION = specs.Array((5,), np.float32)
ACTION = specs.BoundedArray((2,), np.float32, -1.0, 1.0)


def products(function, *args):
    """The dtypes of all matrix products in a traced function."""
    text = str(jax.make_jaxpr(function)(*args))
    return {line.split(":")[1].split("[")[0] for line in text.splitlines() if "= dot_general[" in line}


def test_a_rounded_product_by_hand():
    net = Head(0, 1, 1)
    params = {"Dense_0": {"kernel": jnp.array([[1.0], [2.0**-9]]), "bias": jnp.zeros(1)}}
    inputs = jnp.array([1.0, 1.0])
    # bfloat16 has eight bits of mantissa: 1 + 2^-9 rounds to 1; in float32 it is exact.
    assert float(precision.run(net, params, inputs, dtype=jnp.float32)[0]) == 1 + 2.0**-9
    rounded = precision.run(net, params, inputs, dtype=jnp.bfloat16)
    assert float(rounded[0]) == 1.0
    assert rounded.dtype == jnp.float32


def test_the_cell_is_near_its_float32_self():
    net = BlockGRU(8, 2)
    deter, stoch, action = (jax.random.normal(jax.random.key(i), (64, n)) for i, n in enumerate((16, 12, 2)))
    params = net.init(jax.random.key(3), deter, stoch, action)["params"]
    full, half = (precision.run(net, params, deter, stoch, action, dtype=d) for d in (jnp.float32, jnp.bfloat16))
    np.testing.assert_allclose(half, full, atol=0.05)
    assert (half != full).any()


@pytest.mark.parametrize(("name", "dtype"), [("f32", "f32"), ("bf16", "bf16")])
def test_all_networks_compute_in_it_and_the_doors_stay_float32(name, dtype):
    agent = make(dataclasses.replace(CONFIG, precision=name), OBSERVATION, ACTION)
    state = jax.jit(agent.init)(jax.random.key(0))
    assert {str(x.dtype) for x in jax.tree.leaves(state.params)} == {"float32"}
    lead = (4, 3)
    draw = lambda *shape: jax.random.normal(jax.random.key(1), (*lead, *shape))
    context = jax.tree.map(lambda x: jnp.zeros((*lead, *x.shape[1:]), x.dtype), jax.eval_shape(
        lambda: agent.act(state, jax.random.key(0), agent.initial(1), TimeStep(
            jnp.ones(1, jnp.int32), jnp.zeros(1), jnp.ones(1), jnp.zeros((1, 5))), "train").context))
    sequence = Sequence(TimeStep(jnp.ones(lead, jnp.int32), draw(), jnp.ones(lead), draw(5)), draw(2), context)
    output = jax.eval_shape(agent.update, state, jax.random.key(2), sequence)
    kinds = jax.tree.map(lambda x: x.dtype, (state, sequence.context))
    assert jax.tree.map(lambda x: x.dtype, (output.state, output.context)) == kinds
    found = products(agent.update, state, jax.random.key(2), sequence)
    # The two-hot mean is a product too, in full precision always.
    assert found - {"f32"} == {dtype} - {"f32"}


def test_half_precision_losses_are_near():
    found = {}
    for name in ("f32", "bf16"):
        agent = make(dataclasses.replace(CONFIG, precision=name), OBSERVATION, ACTION)
        state = jax.jit(agent.init)(jax.random.key(0))
        timestep = TimeStep(jnp.ones(4, jnp.int32), jnp.ones(4), jnp.ones(4), jnp.full((4, 5), 1e4))
        memory = agent.initial(4)
        found[name] = agent.act(state, jax.random.key(1), memory, timestep, "eval").carry.latent.deter
    np.testing.assert_allclose(found["bf16"], found["f32"], atol=0.03)


def test_what_a_device_lacks_is_refused(monkeypatch):
    old = SimpleNamespace(device_kind="Tesla V100", compute_capability="7.0")
    monkeypatch.setattr(precision.jax, "devices", lambda: [old])
    assert precision.dtype_of("f32") == jnp.float32
    with pytest.raises(UserError, match=r"agent\.precision is 'bf16', which Tesla V100 .* lacks; take f32"):
        precision.dtype_of("bf16")
    with pytest.raises(UserError, match="did you mean 'bf16'"):
        precision.dtype_of("bf1")
