"""Frames in the host's memory: the same bits as on the device, moved in slices and copied nowhere."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from test_replay_ring import make_ring, vector_step

from mbrl.core.errors import UserError
from mbrl.replay import frames
from mbrl.replay.ring import Ring

SHAPES = {"rows": 7, "num_envs": 3, "window": 3, "batch_size": 16, "recent_fraction": 0.125}


def pair(**shapes):
    """Return a ring on the device and the same with its frames on the host."""
    ring = make_ring(**SHAPES | shapes)
    return ring, Ring(dataclasses.replace(ring.config, frames="host"), ring.num_envs)


def step(ring, t):
    return vector_step(t, ring.num_envs)


def live(ring, key, begin=0, count=30):
    """Add, sample and refresh so often that the ring goes round, from step ``begin`` on; return it and all batches."""

    def body(carry, key):
        state, t = carry
        state = ring.add(state, step(ring, t))
        sequence, address = ring.sample(state, key)
        state = ring.update_context(state, address, jax.tree.map(lambda x: x + 1, sequence.context))
        return (state, t + 1), (sequence, address)

    empty = ring.init(step(ring, jnp.int32(0)))
    (state, _), batches = jax.lax.scan(body, (empty, jnp.int32(begin)), jax.random.split(key, count))
    return state, batches


@pytest.mark.parametrize("shapes", [{}, {"rows": 3}, {"num_envs": 1, "recent_fraction": 1.0}])
def test_the_same_bits(shapes):
    plain, apart = (jax.jit(functools.partial(live, ring))(jax.random.key(1)) for ring in pair(**shapes))
    chex.assert_trees_all_equal(apart, plain)
    assert any(x.any() for x in jax.tree.leaves(plain[1]))


def test_the_same_bits_of_several_rings():
    keys, begin = jax.random.split(jax.random.key(2), 3), jnp.array([0, 40, 90])
    ring, other = pair()
    # Rings of different content, one ring that is read at different places, and rings that stand at different rows.
    for steps, axis in ((begin, 0), (0, None)):
        many = lambda ring, axis=axis: jax.jit(jax.vmap(functools.partial(live, ring), in_axes=(0, axis)))
        chex.assert_trees_all_equal(many(other)(keys, steps), many(ring)(keys, steps))

    def count(ring, n):
        add = lambda t, state: ring.add(state, step(ring, t))
        return jax.lax.fori_loop(0, n, add, ring.init(step(ring, jnp.int32(0))))

    fill = lambda ring: jax.jit(jax.vmap(functools.partial(count, ring)))(jnp.array([2, 5, 11]))
    chex.assert_trees_all_equal(fill(other), fill(ring))


def test_a_recent_batch_ends_at_the_newest_step():
    _, ring = pair(rows=5, num_envs=2, batch_size=2, recent_fraction=1.0)
    _, (sequence, _) = jax.jit(functools.partial(live, ring))(jax.random.key(0))
    # Marks of step 29 by hand: 100 · 29 + environment, as bytes.
    assert set(np.asarray(sequence.timestep.observation["image"][-1, -1]).ravel()) == {2900 % 256, 2901 % 256}


def test_frames_alone_lie_on_the_host():
    _, ring = pair()
    state = jax.jit(ring.init)(step(ring, jnp.int32(0)))
    kinds = jax.tree.map(lambda x: x.sharding.memory_kind, state)
    assert kinds.data.timestep.observation == {"image": "pinned_host", "vector": "device"}
    assert jax.tree.leaves(kinds).count("pinned_host") == 1
    assert not state.data.timestep.observation["image"].any()


def test_nothing_is_copied():
    _, ring = pair(rows=5000)
    state = jax.jit(ring.init)(step(ring, jnp.int32(0)))
    held = sum(x.nbytes for x in jax.tree.leaves(state))

    def epoch(state, key):
        state = ring.add(state, step(ring, jnp.int32(1)))
        sequence, address = ring.sample(state, key)
        return ring.update_context(state, address, sequence.context), sequence.timestep.observation["image"].sum()

    chex.clear_trace_counter()
    places = jax.tree.map(lambda x: x.sharding, state)
    jitted = jax.jit(chex.assert_max_traces(epoch, n=1), donate_argnums=0, out_shardings=(places, None))
    planned = jitted.lower(state, jax.random.key(0)).compile().memory_analysis()
    assert planned.alias_size_in_bytes >= held
    assert planned.temp_size_in_bytes < held / 50
    for seed in range(3):
        state, _ = jitted(state, jax.random.key(seed))
    assert state.data.timestep.observation["image"].sharding.memory_kind == "pinned_host"


@pytest.mark.parametrize("rings", [1, 2])
def test_an_accelerator_is_given_slices_alone(rings):
    """What is lowered for a GPU: only slices of the ring, which lies on the host, and each move by name."""
    _, ring = pair()
    one = functools.partial(live, ring)
    args = jax.random.split(jax.random.key(0), rings), jnp.arange(rings)
    function, args = (one, [x[0] for x in args]) if rings == 1 else (jax.vmap(one), args)
    text = jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    whole = f"tensor<{'' if rings == 1 else f'{rings}x'}7x3x2x2x1xui8>"
    used = [line for line in text.splitlines() if f"({whole}" in line and "stablehlo." in line]
    assert any("stablehlo.dynamic_update_slice" in line for line in used)
    assert any("stablehlo.dynamic_slice" in line for line in used)
    assert not [line for line in used if "gather" in line or "scatter" in line]
    for kind in ("pinned_host", "device"):
        assert f'_xla_buffer_placement = "{kind}"' in text


IMAGE = specs.BoundedArray((8, 8, 3), np.uint8, 0, 255)
VECTOR = specs.Array((8,), np.float32)


def test_what_can_lie_on_the_host():
    device = jax.devices()[0]
    frames.check({"image": IMAGE, "vector": VECTOR}, device)
    frames.check(IMAGE, device)
    for observation in (VECTOR, {"bytes": specs.Array((64,), np.uint8), "field": specs.Array((8, 8, 3), np.float32)}):
        with pytest.raises(UserError) as error:
            frames.check(observation, device)
        assert str(error.value) == (
            "replay.frames is host, but nothing in the observation is a frame (uint8, rank 3 or more); leave it out"
        )


def test_a_backend_without_host_memory_is_refused():
    metal = type("Device", (), {"platform": "metal", "addressable_memories": lambda _: []})()
    with pytest.raises(UserError, match=r"^replay.frames is host, but for metal JAX has no pinned_host memory; leave"):
        frames.check(IMAGE, metal)
