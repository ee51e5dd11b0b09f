import functools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mbrl.core.types import FIRST, MID, Sequence, TimeStep
from mbrl.replay.config import ReplayConfig
from mbrl.replay.ring import Address, Ring

EPISODE = 4  # steps; every fourth is FIRST


def make_ring(rows, num_envs, window, batch_size=8, recent_fraction=0.0):
    return Ring(ReplayConfig(rows * num_envs, batch_size, window - 1, recent_fraction), num_envs)


def vector_step(t, num_envs):
    """Step t of all environments: every leaf tells which step and which environment it came from."""
    mark = 100 * t + jnp.arange(num_envs)
    first = jnp.broadcast_to(t % EPISODE == 0, (num_envs,))
    timestep = TimeStep(
        step_type=jnp.where(first, FIRST, MID),
        reward=mark.astype(jnp.float32),
        discount=jnp.ones(num_envs),
        observation={
            "image": jnp.broadcast_to(mark.astype(jnp.uint8)[:, None, None, None], (num_envs, 2, 2, 1)),
            "vector": jnp.broadcast_to(mark.astype(jnp.float32)[:, None], (num_envs, 3)),
        },
    )
    context = {"deter": jnp.broadcast_to(-mark.astype(jnp.float32)[:, None], (num_envs, 2)), "classes": mark % 7}
    return Sequence(timestep, jnp.broadcast_to(mark.astype(jnp.float32)[:, None], (num_envs, 2)), context)


@functools.cache
def filler(ring):
    """Return a jitted function that writes the first n steps into an empty ring; n does not compile anew."""

    @jax.jit
    def fill(n):
        add = lambda t, state: ring.add(state, vector_step(t, ring.num_envs))
        return jax.lax.fori_loop(0, n, add, ring.init(vector_step(jnp.int32(0), ring.num_envs)))

    return fill


@functools.cache
def sampler(ring):
    return jax.jit(ring.sample)


@functools.cache
def updater(ring):
    return jax.jit(ring.update_context)


def test_contents_by_hand():
    # Two environments, three rows; the fourth step (marks 300, 301) goes over the first.
    ring = make_ring(rows=3, num_envs=2, window=2)
    state = filler(ring)(4)
    np.testing.assert_array_equal(state.data.timestep.reward, [[300, 301], [100, 101], [200, 201]])
    assert (int(state.cursor), int(state.filled), int(ring.size(state))) == (1, 3, 6)


def test_context_by_hand_across_the_end_of_the_ring():
    # Five rows. Window 0 covers rows 3, 4, 0 of environment 1; window 1 covers 4, 0, 1 and, being later, wins there.
    ring = make_ring(rows=5, num_envs=2, window=3, batch_size=2)
    state = filler(ring)(5)
    new = {"deter": jnp.array([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]])[:, :, None] * jnp.ones((1, 1, 2))}
    new["classes"] = new["deter"][:, :, 0].astype(jnp.int32)
    state = updater(ring)(state, Address(jnp.array([3, 4]), jnp.array([1, 1])), new)
    np.testing.assert_array_equal(state.data.context["deter"][:, 1, 0], [5.0, 6.0, -201.0, 1.0, 4.0])
    np.testing.assert_array_equal(state.data.context["classes"][:, 1], [5, 6, 201 % 7, 1, 4])
    np.testing.assert_array_equal(state.data.context["deter"][:, 0, 0], [0, -100, -200, -300, -400])


def test_golden():
    ring = make_ring(rows=6, num_envs=3, window=3, batch_size=4, recent_fraction=0.5)
    sequence, address = sampler(ring)(filler(ring)(8), jax.random.key(0))
    np.testing.assert_array_equal(sequence.timestep.reward[0], [501, 500, 202, 301])
    np.testing.assert_array_equal(address.start, [5, 5, 2, 3])


RINGS = st.sampled_from([
    make_ring(rows=7, num_envs=3, window=3, batch_size=16, recent_fraction=0.125),
    make_ring(rows=5, num_envs=1, window=5, batch_size=4, recent_fraction=1.0),
    make_ring(rows=6, num_envs=4, window=2, batch_size=8, recent_fraction=1.0),
    make_ring(rows=9, num_envs=2, window=4, batch_size=8),
])


# All that is ever written, [time, environment, ...], by the number of environments.
HISTORY = {
    n: jax.tree.map(np.asarray, jax.vmap(functools.partial(vector_step, num_envs=n))(jnp.arange(40)))
    for n in (1, 2, 3, 4)
}


@hypothesis.settings(max_examples=40)
@hypothesis.given(ring=RINGS, steps=st.integers(0, 30))
def test_the_ring_is_the_last_steps(ring, steps):
    state = filler(ring)(steps)
    kept = min(steps, ring.rows)
    assert int(state.filled) == kept
    assert int(ring.size(state)) == kept * ring.num_envs
    assert bool(ring.can_sample(state)) == (kept >= ring.window)
    rows = (int(state.cursor) - kept + np.arange(kept)) % ring.rows
    expected = jax.tree.map(lambda x: x[steps - kept : steps], HISTORY[ring.num_envs])
    chex.assert_trees_all_equal(jax.tree.map(lambda x: np.asarray(x)[rows], state.data), expected)
    chex.assert_trees_all_equal_dtypes(state.data, expected)


@hypothesis.settings(max_examples=40)
@hypothesis.given(ring=RINGS, more=st.integers(0, 30), seed=st.integers(0, 2**31 - 1))
def test_a_sequence_is_successive_steps_of_one_environment(ring, more, seed):
    steps = ring.window + more
    sequence, address = sampler(ring)(filler(ring)(steps), jax.random.key(seed))
    chex.assert_shape(sequence.timestep.reward, (ring.window, ring.config.batch_size))
    mark = np.asarray(sequence.timestep.reward).astype(int)
    time, env = mark // 100, mark % 100
    # Successive, of one environment, and none older than the ring or newer than the newest.
    np.testing.assert_array_equal(np.diff(time, axis=0), 1)
    np.testing.assert_array_equal(env, np.broadcast_to(address.env, env.shape))
    assert time.min() >= max(0, steps - ring.rows)
    assert time.max() < steps
    np.testing.assert_array_equal(time[0] % ring.rows, address.start)
    # Groups side by side, each of its own environments, which have their fair share of the batch.
    groups = env[0].reshape((ring.groups, -1)) // (ring.num_envs // ring.groups)
    np.testing.assert_array_equal(groups, np.broadcast_to(np.arange(ring.groups)[:, None], groups.shape))
    # Among those that end at the newest step are the recent ones, each in an environment of its own, and fairly shared.
    newest = (time[-1] == steps - 1).reshape((ring.groups, -1))
    assert newest.sum() >= ring.recent
    assert (newest.sum(1) >= ring.recent // ring.groups).all()
    assert len(set(env[0, newest.ravel()])) >= ring.recent
    # All leaves come from the same step.
    expected = jax.tree.map(lambda x: x[time, env], HISTORY[ring.num_envs])
    chex.assert_trees_all_equal(sequence, expected)
    chex.assert_trees_all_equal_dtypes(sequence, expected)


@hypothesis.settings(max_examples=40)
@hypothesis.given(ring=RINGS, more=st.integers(0, 30), seed=st.integers(0, 2**31 - 1))
def test_contexts_come_back_and_nothing_else_changes(ring, more, seed):
    state = filler(ring)(ring.window + more)
    sequence, address = sampler(ring)(state, jax.random.key(seed))
    shape = sequence.timestep.reward.shape
    serial = jnp.arange(1, 1 + shape[0] * shape[1]).reshape(shape)
    new = {"deter": serial[:, :, None] + jnp.zeros((1, 1, 2)), "classes": serial}
    updated = updater(ring)(state, address, new)
    expected = jax.tree.map(np.array, state.data.context)
    for b in range(shape[1]):  # one after the other, as written down in the docstring
        for t in range(shape[0]):
            slot = (int(address.start[b]) + t) % ring.rows, int(address.env[b])
            for name, value in expected.items():
                value[slot] = new[name][t, b]
    chex.assert_trees_all_equal(updated.data.context, expected)
    chex.assert_trees_all_equal(updated._replace(data=state.data), state)
    chex.assert_trees_all_equal(updated.data._replace(context=0), state.data._replace(context=0))
    again, _ = sampler(ring)(updated, jax.random.key(seed))
    rows = (np.asarray(address.start)[None] + np.arange(shape[0])[:, None]) % ring.rows
    np.testing.assert_array_equal(again.context["classes"], expected["classes"][rows, np.asarray(address.env)[None]])


@pytest.mark.parametrize("steps", [6, 8, 11])  # not yet full, just full, wrapped round
def test_environments_and_starts_are_uniform(steps):
    ring = make_ring(rows=8, num_envs=3, window=3, batch_size=6000)
    sequence, _ = sampler(ring)(filler(ring)(steps), jax.random.key(0))
    _, seen = np.unique(np.asarray(sequence.timestep.reward[0]), return_counts=True)
    assert len(seen) == 3 * (min(steps, 8) - 2)  # environments times starts, each met
    assert stats.chisquare(seen).pvalue > 0.01


def test_recent_environments_are_uniform():
    # One group of 5 environments; and 4 groups of 2 environments and 1 sequence, of which 2 are recent.
    for num_envs, batch_size in ((5, 8), (8, 4)):
        # So many rows that what is drawn uniformly is hardly ever the newest.
        ring = make_ring(rows=3000, num_envs=num_envs, window=3, batch_size=batch_size, recent_fraction=2 / batch_size)
        state = filler(ring)(3000)
        keys = jax.random.split(jax.random.key(0), 1000)
        address = jax.jit(jax.vmap(ring.draw, in_axes=(None, 0)))(state, keys)
        recent = np.asarray(address.start == 3000 - 3)
        assert ring.recent == 2
        assert 2 <= recent.sum(1).mean() < 2.02
        seen = np.bincount(np.asarray(address.env)[recent], minlength=num_envs)
        assert stats.chisquare(seen).pvalue > 0.01


def test_every_environment_has_its_share_of_a_batch():
    for num_envs, batch_size, each in ((4, 8, {2}), (8, 4, {0, 1}), (1, 3, {3})):
        ring = make_ring(rows=8, num_envs=num_envs, window=3, batch_size=batch_size, recent_fraction=0.5)
        _, address = sampler(ring)(filler(ring)(9), jax.random.key(0))
        assert set(np.bincount(address.env, minlength=num_envs)) == each


def test_a_part_of_the_ring_reads_and_writes_its_own_groups():
    """As a device does: half of the environments, half of the batch, and the addresses as they were drawn."""
    ring = make_ring(rows=6, num_envs=4, window=3, batch_size=8, recent_fraction=0.5)
    state = filler(ring)(9)
    whole, address = sampler(ring)(state, jax.random.key(1))
    written = updater(ring)(state, address, jax.tree.map(lambda x: x + 1, whole.context))
    for half in (0, 1):
        envs, rows = slice(2 * half, 2 * half + 2), slice(4 * half, 4 * half + 4)
        part = state._replace(data=jax.tree.map(lambda x, envs=envs: x[:, envs], state.data))
        here = Address(*(x[rows] for x in address))
        sequence = ring.read(part, here)
        chex.assert_trees_all_equal(sequence, jax.tree.map(lambda x, rows=rows: x[:, rows], whole))
        ours = ring.update_context(part, here, jax.tree.map(lambda x: x + 1, sequence.context))
        expected = jax.tree.map(lambda x, envs=envs: x[:, envs], written.data)
        chex.assert_trees_all_equal(ours.data, expected)


@pytest.mark.parametrize(
    ("fraction", "num_envs", "recent"), [(0.0, 4, 0), (0.125, 4, 2), (0.125, 1, 1), (1.0, 4, 4), (0.2, 4, 3)]
)
def test_how_many_are_recent(fraction, num_envs, recent):
    # .125 · 16 = 2; no more than one per environment; 1 · 16 and .2 · 16 = 3.2 → 3.
    assert make_ring(8, num_envs, 2, batch_size=16, recent_fraction=fraction).recent == recent


def test_can_sample_from_the_first_whole_sequence_on():
    ring = make_ring(rows=8, num_envs=2, window=4)
    assert [bool(ring.can_sample(filler(ring)(n))) for n in (0, 3, 4, 8, 20)] == [False, False, True, True, True]
    too_early, _ = sampler(ring)(filler(ring)(3), jax.random.key(0))
    assert not any(x.any() for x in jax.tree.leaves(too_early))


def test_a_key_decides_the_batch():
    ring = make_ring(rows=50, num_envs=2, window=4)
    state = filler(ring)(60)
    one, same, other = (sampler(ring)(state, jax.random.key(seed))[0] for seed in (0, 0, 1))
    chex.assert_trees_all_equal(one, same)
    assert (one.timestep.reward != other.timestep.reward).any()


def test_many_rings_side_by_side():
    ring = make_ring(rows=4, num_envs=2, window=2)
    alone = [filler(ring)(n) for n in (3, 6)]
    keys = jax.random.split(jax.random.key(0), 2)
    together = jax.tree.map(lambda *x: jnp.stack(x), *alone)
    step = vector_step(jnp.int32(9), 2)

    def go_on(state, key):
        state = ring.add(state, step)
        sequence, address = ring.sample(state, key)
        return ring.update_context(state, address, jax.tree.map(lambda x: x + 1, sequence.context))

    mapped = jax.jit(jax.vmap(go_on))(together, keys)
    for i, state in enumerate(alone):
        chex.assert_trees_all_equal(jax.tree.map(lambda x: x[i], mapped), jax.jit(go_on)(state, keys[i]))


def test_any_pytree_goes_in_an_array_for_observation_and_no_context():
    ring = make_ring(rows=4, num_envs=2, window=2)
    step = Sequence(TimeStep(jnp.ones(2, jnp.int32), jnp.ones(2), jnp.ones(2), jnp.ones((2, 3))), jnp.ones((2, 1)), ())
    state = ring.add(ring.add(ring.init(step), step), step)
    sequence, address = ring.sample(state, jax.random.key(0))
    chex.assert_shape(sequence.timestep.observation, (2, 8, 3))
    assert sequence.context == ()
    chex.assert_trees_all_equal(ring.update_context(state, address, ()), state)


def test_a_step_of_another_dtype_is_refused():
    ring = make_ring(rows=4, num_envs=2, window=2)
    step = vector_step(jnp.int32(0), 2)
    with pytest.raises(TypeError, match="dtype"):
        ring.add(ring.init(step), step._replace(action=step.action.astype(jnp.bfloat16)))


def refresh(pass_on):
    """Return what an agent might write back: the first ``pass_on`` contexts as they were, the others new."""
    return lambda x: jnp.concatenate([x[:pass_on], x[pass_on:] + 1])


@pytest.mark.parametrize("pass_on", [0, 1, 4])
def test_compiles_once_and_copies_nothing(pass_on):
    ring = make_ring(rows=5000, num_envs=2, window=4)
    state = jax.jit(lambda: ring.init(vector_step(jnp.int32(0), 2)))()
    ring_bytes = sum(x.nbytes for x in jax.tree.leaves(state))

    def epoch(state, t, key):
        def body(carry, key):
            state, t = carry
            state = ring.add(state, vector_step(t, 2))
            sequence, address = ring.sample(state, key)
            context = jax.tree.map(refresh(pass_on), sequence.context)
            return (ring.update_context(state, address, context), t + 1), sequence.timestep.reward.mean()

        return jax.lax.scan(body, (state, t), jax.random.split(key, 10))

    chex.clear_trace_counter()
    jitted = jax.jit(chex.assert_max_traces(epoch, n=1), donate_argnums=0)
    memory = jitted.lower(state, jnp.int32(0), jax.random.key(0)).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= ring_bytes  # the donated state is where the new one is written
    assert memory.temp_size_in_bytes < ring_bytes / 50  # no leaf is copied
    t = jnp.int32(0)
    for seed in range(3):
        (state, t), _ = jitted(state, t, jax.random.key(seed))
    assert int(state.filled) == 30
