"""Brax: every environment traces on every backend; one of them runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl.core.errors import UserError
from mbrl.core.types import LAST, MID
from mbrl.envs import EnvConfig, make_vector, unwrap
from mbrl.envs.brax import BACKENDS, NAMES, BraxEnv
from mbrl.envs.physics import quiet


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_environment_traces_on_every_backend(name, backend):
    env = BraxEnv(name, backend)
    state, first = jax.eval_shape(env.reset, jax.random.key(0))
    stepped, timestep = jax.eval_shape(env.step, state, jax.ShapeDtypeStruct(env.action_spec.shape, np.float32))
    # The same structure, shapes, dtypes and weak types: a rollout compiles once.
    assert stepped == state
    assert timestep == first
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((stepped, timestep)))
    assert env.physics.backend == backend


def test_without_a_backend_it_is_brax_own_choice():
    assert BraxEnv("hopper").physics.backend == "generalized"


def test_building_says_nothing_and_leaves_nothing_behind(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    BraxEnv("halfcheetah", "spring")
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ant", "hopper", "inverted_double_pendulum", "pusher", "reacher"])
def test_a_pose_is_what_the_observation_was_made_from(name):
    env = BraxEnv(name, "spring")
    key = jax.random.key(0)
    hidden = {"ant": 2, "hopper": 1}.get(name, 0)
    q = env.sys.init_q + 0.2 * jax.random.normal(key, env.sys.init_q.shape)
    if name == "ant":
        q = q.at[3:7].divide(jnp.linalg.norm(q[3:7]))
    q = q.at[:hidden].set(0)

    def observe(q):
        with quiet():
            return env.physics._get_obs(env.physics.pipeline_init(q, jnp.zeros(env.sys.qd_size())))

    observation = jax.jit(observe)(q)
    batch = jnp.broadcast_to(observation, (2, 3, *observation.shape))
    np.testing.assert_allclose(env.pose(batch), np.broadcast_to(q, (2, 3, *q.shape)), atol=1e-5)


def test_a_pendulum_that_falls_is_terminated_and_one_that_stands_is_truncated():
    env = make_vector(EnvConfig("brax/inverted_pendulum@spring", time_limit=12), 2)
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step, donate_argnums=0)
    steps = []
    for _ in range(12):
        state, timestep = step(state, jnp.array([[1.0], [0.0]]))
        steps.append(jax.device_get(timestep))
    fallen, standing = ([jax.tree.map(lambda leaf, i=i: leaf[i], one) for one in steps] for i in (0, 1))
    assert step._cache_size() == 1
    end = [one.step_type for one in fallen].index(LAST)
    # Pushed with full force the pole falls past 0.2 rad at once: Brax pays 1 for that step too, and terminates.
    assert (fallen[end].discount, fallen[end].reward) == (0, 1)
    assert abs(fallen[end].observation[1]) > 0.2 >= abs(fallen[end - 1].observation[1])
    assert [one.step_type for one in standing] == [MID] * 11 + [LAST]
    assert standing[-1].discount == 1
    base, inner = unwrap(env.env, state.env)
    np.testing.assert_allclose(base.pose(timestep.observation), inner.pipeline_state.q)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("swimmer",), "crashes inside Brax on every backend"),
        (("hoper",), "did you mean 'hopper'"),
        (("hopper", "mjxx"), "unknown Brax backend 'mjxx'; did you mean 'mjx'"),
    ],
)
def test_bad_names_are_told(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        BraxEnv(*arguments)
