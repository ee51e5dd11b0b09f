"""Products of bfloat16 numbers, summed in float32."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.agents.dreamer import DreamerConfig, make
from mbrl.behaviours.actor_critic import ActorCriticConfig
from mbrl.bench.flops import _inside
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
    """The dtypes of what is multiplied in each matrix product of a traced function, and of what comes out."""
    found = set()

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                found.add(tuple(str(v.aval.dtype) for v in (*equation.invars, *equation.outvars)))
            for inner in _inside(equation.params):
                walk(inner)

    walk(jax.make_jaxpr(function)(*args).jaxpr)
    return found


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3)])
def test_products_and_their_gradients_are_those_of_rounded_numbers(lead, dtype):
    draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
    x, kernel, out = draw(0, *lead, 7), draw(1, 7, 4), draw(2, *lead, 4)
    found, back = jax.vjp(lambda x, kernel: precision.product(x, kernel, dtype), x, kernel)
    rounded = lambda y: np.asarray(y.astype(dtype).astype(jnp.float32), np.float64)
    for ours, theirs in [
        (found, rounded(x) @ rounded(kernel)),
        (back(out)[0], rounded(out) @ rounded(kernel).T),
        (back(out)[1], rounded(x).reshape(-1, 7).T @ rounded(out).reshape(-1, 4)),
    ]:
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_rounded_product_by_hand():
    params = {"Dense_0": {"kernel": jnp.array([[1.0], [2.0**-9]]), "bias": jnp.array([2.0**-9])}}
    inputs = jnp.array([1.0, 1.0])
    # bfloat16 has eight bits of mantissa. Each factor has one bit and stays what it is, and so does their float32 sum.
    for dtype in (jnp.float32, jnp.bfloat16):
        assert float(Head(0, 1, 1, dtype=dtype).apply({"params": params}, inputs)[0]) == 1 + 2.0**-8
    # 1 + 2^-9 has ten, and rounds to 1.
    odd = jnp.array([1.0 + 2.0**-9, 0.0])
    assert float(Head(0, 1, 1).apply({"params": params}, odd)[0]) == 1 + 2.0**-8
    assert float(Head(0, 1, 1, dtype=jnp.bfloat16).apply({"params": params}, odd)[0]) == 1 + 2.0**-9


def test_the_cell_is_near_its_float32_self():
    full, half = BlockGRU(8, 2), BlockGRU(8, 2, jnp.bfloat16)
    inputs = [jax.random.normal(jax.random.key(i), (64, n)) for i, n in enumerate((16, 12, 2))]
    params = full.init(jax.random.key(3), *inputs)
    np.testing.assert_allclose(half.apply(params, *inputs), full.apply(params, *inputs), atol=0.05)
    assert (half.apply(params, *inputs) != full.apply(params, *inputs)).any()


@pytest.mark.parametrize(("name", "dtype"), [("f32", "float32"), ("bf16", "bfloat16")])
def test_all_networks_multiply_in_it_and_the_doors_stay_float32(name, dtype):
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
    assert found == {(dtype, dtype, "float32"), ("float32", "float32", "float32")}


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
