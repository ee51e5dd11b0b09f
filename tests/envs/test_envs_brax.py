"""Brax: every environment traces on every backend; one of them runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl.core.errors import UserError
from mbrl.core.types import LAST
from mbrl.envs import EnvConfig, make, make_vector, unwrap
from mbrl.envs.brax import BACKENDS, NAMES, BraxEnv
from mbrl.envs.physics import quiet


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_environment_traces_on_every_backend(name, backend):
    env = make(EnvConfig(f"brax/{name}@{backend}"))
    state, first = jax.eval_shape(env.reset, jax.random.key(0))
    stepped, timestep = jax.eval_shape(env.step, state, jax.ShapeDtypeStruct(env.action_spec.shape, np.float32))
    # The same structure, shapes, dtypes and weak types: a rollout compiles once.
    assert stepped == state
    assert timestep == first
    assert timestep.observation.shape == env.observation_spec.shape
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(timestep))
    assert unwrap(env, state)[0].physics.backend == backend


def test_without_a_backend_it_is_brax_own_choice():
    assert BraxEnv("hopper").physics.backend == "generalized"


@pytest.mark.parametrize("name", ["ant", "halfcheetah", "hopper", "inverted_double_pendulum", "pusher", "reacher"])
def test_a_pose_is_what_the_observation_was_made_from(name):
    env = BraxEnv(name, "spring")
    key = jax.random.key(0)
    hidden = {"ant": 2, "halfcheetah": 1, "hopper": 1}.get(name, 0)
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


def test_a_pendulum_runs_to_its_termination_and_compiles_once():
    env = make_vector(EnvConfig("brax/inverted_pendulum"), 2)
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step, donate_argnums=0)
    total, timestep = 0.0, None
    for _ in range(60):
        state, timestep = step(state, jnp.ones((2, 1)))
        total += timestep.reward[0]
        if timestep.last()[0]:
            break
    # Pushed with full force the pole falls past 0.2 rad at once: Brax pays 1 for each step and terminates.
    assert timestep.step_type[0] == LAST
    assert timestep.discount[0] == 0
    assert abs(timestep.observation[0, 1]) > 0.2
    assert 1 < total < 60
    assert step._cache_size() == 1
    base, inner = unwrap(env.env, state.env)
    np.testing.assert_allclose(base.pose(timestep.observation), inner.pipeline_state.q)


def test_brax_own_time_is_no_termination():
    env = make(EnvConfig("brax/reacher@spring", time_limit=2))
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    for _ in range(2):
        state, timestep = step(state, jnp.zeros(2))
    assert (timestep.step_type, timestep.discount) == (LAST, 1)
    assert step._cache_size() == 1


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
