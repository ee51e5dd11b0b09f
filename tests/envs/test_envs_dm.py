"""dm_env both ways."""

import dm_env
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest
from dm_env import specs, test_utils
from toy_env import Walk

from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, LAST, MID, image_top
from mbrl.envs import ENVS, EnvConfig, HostEnv, HostVectorEnv, TimeLimit, VectorEnvironment, make_vector, to_dm_env
from mbrl.envs.probes import Discrete


class HostWalk(dm_env.Environment):
    """``Walk`` as a user may have it: float64, bounds of its own, a dict of observations, a scalar among them."""

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)
        self._over = True

    def reset(self):
        self._tag, self._position, self._over = self._rng.random(), 0.0, False
        return dm_env.restart(self._see())

    def step(self, action):
        assert not self._over, "stepped after LAST"
        self.action_spec().validate(action)
        self._position += float("nan") if action[0] >= 1.8 else action[0]
        self._over = self._position >= 3
        return (dm_env.termination if self._over else dm_env.transition)(float(action[0]), self._see())

    def _see(self):
        return {"tag": np.float64(self._tag), "position": np.array([self._position, 1.0])}

    def observation_spec(self):
        return {"tag": specs.Array((), np.float64), "position": specs.Array((2,), np.float64)}

    def action_spec(self):
        return specs.BoundedArray((1,), np.float64, -2.0, 2.0)


def scan(env, key, actions):
    state, timestep = env.reset(key)
    state, steps = jax.lax.scan(env.step, state, actions)
    return state, timestep, steps


def test_a_host_environment_is_scanned_behind_the_same_door():
    env = HostVectorEnv(HostWalk, 2)
    assert isinstance(env, VectorEnvironment)
    assert env.observation_spec["tag"].shape == (1,)
    assert {spec.dtype for spec in env.observation_spec.values()} == {np.dtype(np.float32)}
    # -2..2 for -1..1: 1.6 a step terminates in the second; 0.2 goes on.
    actions = jnp.tile(jnp.array([[0.8], [0.1]]), (4, 1, 1))
    run = jax.jit(scan, static_argnums=0)
    state, timestep, steps = run(env, jax.random.key(0), actions)
    assert timestep.step_type.tolist() == [FIRST, FIRST]
    assert steps.step_type.T.tolist() == [[MID, LAST, FIRST, MID], [MID] * 4]
    np.testing.assert_allclose(steps.reward.T, [[1.6, 1.6, 0, 1.6], [0.2] * 4], rtol=1e-6)
    np.testing.assert_allclose(steps.discount.T, [[1, 0, 1, 1], [1] * 4])
    np.testing.assert_allclose(steps.observation["position"][1, 0], [3.2, 1], rtol=1e-6)
    assert steps.observation["tag"][2, 0, 0] != steps.observation["tag"][1, 0, 0]
    assert state.steps == 4
    again = run(env, jax.random.key(0), actions)[2]
    jax.tree.map(np.testing.assert_array_equal, steps, again)
    assert run._cache_size() == 1
    other = run(env, jax.random.key(1), actions)[1]
    assert not np.array_equal(other.observation["tag"], timestep.observation["tag"])
    assert len(np.unique(timestep.observation["tag"])) == 2


def test_a_broken_host_step_is_cut_and_counted():
    env = HostVectorEnv(HostWalk, 1)
    actions = jnp.array([0.5, 1, 0.5, 0.5])[:, None, None]
    state, _, steps = jax.jit(scan, static_argnums=0)(env, jax.random.key(0), actions)
    assert steps.step_type[:, 0].tolist() == [MID, LAST, FIRST, MID]
    np.testing.assert_allclose(steps.observation["position"][1, 0], [1, 1])
    assert (steps.reward[1, 0], steps.discount[1, 0], state.faults) == (0, 1, 1)


def test_held_actions_and_the_limit_are_counted_on_the_host():
    env = HostVectorEnv(HostWalk, 1, action_repeat=2, time_limit=5)
    _, _, steps = jax.jit(scan, static_argnums=0)(env, jax.random.key(0), jnp.full((4, 1, 1), 0.1))
    assert steps.step_type[:, 0].tolist() == [MID, MID, LAST, FIRST]
    np.testing.assert_allclose(steps.reward[:, 0], [0.4, 0.4, 0.2, 0], rtol=1e-6)
    assert steps.discount[2, 0] == 1


def test_a_state_from_another_process_goes_on_with_new_episodes():
    old, new = HostVectorEnv(HostWalk, 2), HostVectorEnv(HostWalk, 2)
    state, timestep = jax.jit(old.reset)(jax.random.key(0))
    step = jax.jit(new.step)
    state, cut = step(state, jnp.full((2, 1), 0.1))
    assert cut.step_type.tolist() == [LAST, LAST]
    jax.tree.map(np.testing.assert_array_equal, cut.observation, timestep.observation)
    np.testing.assert_array_equal(cut.discount, 1)
    state, fresh = step(state, jnp.full((2, 1), 0.1))
    assert fresh.step_type.tolist() == [FIRST, FIRST]
    assert not np.isin(fresh.observation["tag"], timestep.observation["tag"]).any()
    assert state.faults == 0


def test_one_registry_line_adds_a_host_environment(monkeypatch):
    monkeypatch.setitem(ENVS, "mine/walk", HostEnv(HostWalk))
    env = make_vector(EnvConfig("mine/walk", action_repeat=3, time_limit=6), 2)
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    _, timestep = jax.jit(env.step)(state, jnp.full((2, 1), 0.1))
    np.testing.assert_allclose(timestep.reward, 0.6, rtol=1e-6)


def test_a_discrete_host_environment_takes_indices():
    env = HostVectorEnv(lambda seed: to_dm_env(Discrete(), seed), 2)
    assert env.action_spec.num_values == 4
    state, timestep = jax.jit(env.reset)(jax.random.key(0))
    right = jnp.argmax(timestep.observation[:, :4], axis=-1).astype(jnp.int32)
    _, timestep = jax.jit(env.step)(state, right)
    np.testing.assert_array_equal(timestep.reward, 1)


class Bits(HostWalk):
    def observation_spec(self):
        return {
            "bits": specs.BoundedArray((4, 4, 1), np.uint8, 0, 1),
            "colour": specs.BoundedArray((4, 4, 3), np.uint8, 0, 255),
            "any": specs.Array((4, 4, 1), np.uint8),
        }


def test_images_keep_their_range():
    spec = HostVectorEnv(Bits, 1).observation_spec
    assert {name: image_top(leaf) for name, leaf in spec.items()} == {"bits": 1, "colour": 255, "any": 255}


class Nested(HostWalk):
    def observation_spec(self):
        return {"arm": {"angle": specs.Array((), np.float64)}}


class Free(HostWalk):
    def action_spec(self):
        return specs.Array((1,), np.float64)


@pytest.mark.parametrize(("env", "sentence"), [(Nested, "observes a dict"), (Free, "must be discrete or bounded")])
def test_what_cannot_be_trained_on_is_told(env, sentence):
    with pytest.raises(UserError, match=rf"'mine/walk' .*{sentence}|'mine/walk' {sentence}"):
        HostVectorEnv(env, 1, name="mine/walk")


class OursHandedOut(test_utils.EnvironmentTestMixin, absltest.TestCase):
    """dm_env's own test of dm_env environments, over several episodes."""

    def make_object_under_test(self):
        return to_dm_env(TimeLimit(Walk(), 6), 0)


class OursDiscreteHandedOut(OursHandedOut):
    def make_object_under_test(self):
        return to_dm_env(Discrete(), 0)


def test_ours_handed_out_keeps_its_numbers_and_its_seed():
    def episode(seed):
        env = to_dm_env(TimeLimit(Walk(), 5), seed)
        steps = [env.step(np.array([0.5]))] + [env.step(np.array([0.5])) for _ in range(6)]
        return [(int(s.step_type), s.reward, s.discount) for s in steps], steps[0].observation

    steps, observation = episode(0)
    assert steps == [(FIRST, None, None), *[(MID, 0.5, 1.0)] * 4, (LAST, 0.5, 1.0), (FIRST, None, None)]
    assert isinstance(observation, np.ndarray)
    np.testing.assert_array_equal(observation, episode(0)[1])
    assert not np.array_equal(observation, episode(1)[1])
