"""From an environment to its picture: cameras, bodies, refusals, and pictures in observations."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from dm_env import specs
from jaxtyping import Array
from render_scenes import drawing, model, rest, scene, world
from toy_env import Walk, WalkState

from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, LAST
from mbrl.envs import ENVS, ActionRepeat, EnvConfig, HostEnv, Pixels, TimeLimit, make, make_vector
from mbrl.envs.brax import BraxEnv
from mbrl.envs.physics import quiet
from mbrl.envs.probes import Cue
from mbrl.envs.registry import check
from mbrl.envs.render import make_render, make_scene, poses
from mbrl.envs.render.camera import of_model, stand, turn


class Painted(Walk):
    """``Walk`` with a picture of its own, whose every pixel is ten times its position."""

    def render(self, state: WalkState, height: int, width: int) -> Array:
        return jnp.full((height, width, 1), jnp.nan_to_num(10 * state.position), jnp.uint8)


class Named(Walk):
    """``Walk`` that observes a dict."""

    @property
    def observation_spec(self):
        return {"tag": specs.Array((3,), np.float32)}

    def reset(self, key):
        state, timestep = super().reset(key)
        return state, timestep._replace(observation={"tag": timestep.observation})

    def step(self, state, action):
        state, timestep = super().step(state, action)
        return state, timestep._replace(observation={"tag": timestep.observation})

    render = Painted.render


@pytest.mark.parametrize("name", ["hopper@spring", "ant@generalized", "inverted_pendulum@mjx"])
def test_bodies_are_where_mujocos_kinematics_put_them(name):
    env = BraxEnv(*name.split("@"))
    q = env.sys.init_q + 0.2 * jax.random.normal(jax.random.key(0), env.sys.init_q.shape)
    if "ant" in name:
        q = q.at[3:7].divide(jnp.linalg.norm(q[3:7]))

    class State(NamedTuple):
        pipeline_state: object

    def place(q):
        with quiet():
            return poses(env, State(env.physics.pipeline_init(q, jnp.zeros(env.sys.qd_size()))))

    positions, rotations = jax.jit(place)(q)
    data = mujoco.MjData(env.sys.mj_model)
    data.qpos[:] = q
    mujoco.mj_kinematics(env.sys.mj_model, data)
    np.testing.assert_allclose(positions, data.xpos, atol=1e-4)
    np.testing.assert_allclose(turn(rotations), data.xmat.reshape(-1, 3, 3), atol=1e-3)


def test_bodies_are_placed_by_the_joints_of_after_the_step():
    """MJX's own places are those of before its last integration."""
    env = BraxEnv("inverted_pendulum", "mjx")

    def moved(push):
        state, _ = env.reset(jax.random.key(0))
        state, _ = env.step(state, jnp.full(1, push))
        return state.pipeline_state.q, poses(env, state)[0]

    (q, one), (_, other) = (jax.jit(moved)(push) for push in (1.0, -1.0))
    assert one[1, 0] > other[1, 0]
    data = mujoco.MjData(env.sys.mj_model)
    data.qpos[:] = q
    mujoco.mj_kinematics(env.sys.mj_model, data)
    np.testing.assert_allclose(one, data.xpos, atol=1e-5)


def test_an_orthographic_camera_is_refused():
    body = '<camera name="flat" projection="orthographic"/><geom size=".1"/>'
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{body}</worldbody></mujoco>")
    with pytest.raises(UserError, match="camera 'flat' is orthographic"):
        of_model(model, "flat")


def test_halfcheetah_is_drawn_and_followed():
    env = make(EnvConfig("brax/halfcheetah@spring", action_repeat=2))
    render = jax.jit(make_render(env, 32, 48))
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    data = mujoco.MjData(env.env.env.env.sys.mj_model)
    mujoco.mj_kinematics(env.env.env.env.sys.mj_model, data)

    def shifted(x):
        at = data.xpos[1:] + np.array([x, 0, 0])
        links = state.env.pipeline_state.x.replace(pos=jnp.float32(at), rot=jnp.float32(data.xquat[1:]))
        return state._replace(env=state.env.replace(pipeline_state=state.env.pipeline_state.replace(x=links)))

    first, later = render(shifted(0.0)), render(shifted(4.0))
    assert (first.shape, first.dtype) == ((32, 48, 3), jnp.uint8)
    assert render._cache_size() == 1
    # The floor's squares, 2/3 m wide, repeat after 4 m; the body is where it was, its camera having gone along.
    np.testing.assert_allclose(np.int32(first), np.int32(later), atol=2)
    assert np.abs(np.int32(first) - np.int32(render(shifted(0.3)))).mean() > 2


def test_every_brax_model_fits_into_its_picture():
    """At rest nothing that moves is cut off by the border, and it takes a fair share of the picture."""
    for name in ("halfcheetah", "hopper", "ant", "reacher", "inverted_double_pendulum", "pusher"):
        env = BraxEnv(name, "spring")
        mj_model = env.sys.mj_model
        data = mujoco.MjData(mj_model)
        mujoco.mj_kinematics(mj_model, data)
        found = make_scene(env)
        frames = jnp.float32(data.xmat.reshape(-1, 3, 3))
        eye, view = (np.asarray(one) for one in stand(found.camera.mount, jnp.float32(data.xpos), frames))
        moving = mj_model.geom_bodyid > 0
        seen = (data.geom_xpos[moving] - eye) @ view
        spread = np.abs(seen[:, :2] / -seen[:, 2:]) / np.tan(np.radians(found.camera.fovy) / 2)
        assert (seen[:, 2] < 0).all(), name
        assert 0.1 < spread.max() < 0.95, name


@pytest.mark.parametrize("mode", ["fixed", "track", "trackcom", "targetbody", "targetbodycom"])
def test_cameras_stand_where_mujocos_do(mode):
    target = 'target="b"' if "target" in mode else ""
    camera = f'<camera name="c" mode="{mode}" {target} pos="0 -3 1" xyaxes="1 .1 0 0 .2 1"/>'
    arm = '<body name="b" pos="0 .5 .5"><joint axis="1 2 0"/><geom size=".1" pos="0 .2 0"/></body>'
    tree = f'<body name="a" pos=".2 0 1"><freejoint/>{camera}<geom size=".2" pos=".3 .1 0"/>{arm}</body>'
    mj_model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{tree}</worldbody></mujoco>")
    data = mujoco.MjData(mj_model)
    data.qpos[:] += np.linspace(-0.3, 0.4, mj_model.nq)
    data.qpos[3:7] /= np.linalg.norm(data.qpos[3:7])
    mujoco.mj_forward(mj_model, data)
    mount = scene(mj_model, "c", flat=False).camera.mount
    place, view = stand(mount, jnp.float32(data.xpos), jnp.float32(data.xmat.reshape(-1, 3, 3)))
    np.testing.assert_allclose(place, data.cam_xpos[0], atol=1e-5)
    np.testing.assert_allclose(view, data.cam_xmat[0].reshape(3, 3), atol=1e-5)


def test_a_mesh_is_named_once_and_the_rest_is_drawn():
    mesh = '<mesh name="m" vertex="0 0 0  1 0 0  0 1 0  0 0 1"/>'
    one = '<geom type="mesh" mesh="m"/>'
    with pytest.warns(UserWarning, match="geometry of kind mesh is not drawn") as told:
        found = scene(world(one + one + '<geom size=".5" rgba="1 1 1 1"/>', mesh))
    assert len(told) == 1
    assert len(found.kinds) == 1


def test_a_mesh_that_its_material_hides_is_not_missed():
    mesh = ('<mesh name="m" vertex="0 0 0  1 0 0  0 1 0  0 0 1"/>'
            '<material name="clear" rgba="1 1 1 0"/><material name="red" rgba="1 0 0 1"/>')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scene(world('<geom type="mesh" mesh="m" material="clear"/>', mesh))
    with pytest.warns(UserWarning, match="kind mesh is not drawn"):
        scene(world('<geom type="mesh" mesh="m" material="red"/>', mesh))


def test_what_is_hidden_or_in_a_late_group_is_not_drawn_and_sites_are():
    inside = '<geom size=".1" rgba="1 1 1 0"/><geom size=".2" group="3"/><site size=".3" rgba="0 1 0 1"/>'
    mj_model = world(inside)
    found = scene(mj_model)
    assert found.sizes[:, 0].tolist() == [0.3]
    np.testing.assert_allclose(drawing(found)(*rest(mj_model))[16, 16], [0, 1, 0], atol=1e-6)


def test_a_model_without_geometry_is_sky():
    mj_model = model([])
    picture = drawing(scene(mj_model, flat=False))(*rest(mj_model))
    assert picture.shape == (32, 32, 3)
    assert picture.min() > 0.2


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: make_render(Cue(), 8, 8), "environment Cue has no picture"),
        (lambda: make_render(Painted(), 0, 8), "the picture's height is 0, but must be at least 1"),
        (lambda: make_render(Painted(), 8, -2), "the picture's width is -2, but must be at least 1"),
        (lambda: make_render(Painted(), 8, 8, "side"), "Painted draws itself, so it has no camera 'side'"),
        (lambda: make_render(BraxEnv("ant", "spring"), 8, 8, "side"), "no camera 'side': the model has 'track'"),
        (lambda: make_render(BraxEnv("reacher", "spring"), 8, 8, "side"), "no camera 'side': the model has none"),
        (lambda: Pixels(Pixels(Painted(), 8), 8), "observes 'image' already"),
        (lambda: make(EnvConfig("probe/cue", pixels=-1)), "env.pixels is -1"),
        (lambda: make(EnvConfig("brax/ant", pixels=10**5)), "env.pixels is 100000, but must be from 1 to 4096"),
        (lambda: make(EnvConfig("probe/cue", state=False)), "'probe/cue' observes no picture: set env.pixels"),
        (lambda: make(EnvConfig("probe/cue", camera="side")), "env.camera is 'side', but no picture is taken"),
        (lambda: make(EnvConfig("probe/cue", pixels=16)), "environment Cue has no picture"),
        (lambda: make_vector(EnvConfig("mine/host", pixels=16), 2), "'mine/host' runs in Python"),
        (lambda: check(EnvConfig("mine/host", pixels=16)), "'mine/host' runs in Python"),
        (lambda: check(EnvConfig("mine/host", state=False)), "nothing is hidden: leave env.state on"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, call, sentence):
    monkeypatch.setitem(ENVS, "mine/host", HostEnv(lambda seed: seed))
    with pytest.raises(UserError) as error:
        call()
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_an_array_becomes_state_beside_the_image():
    env = Pixels(Painted(), 8)
    spec = env.observation_spec
    assert list(spec) == ["image", "state"]
    assert spec["image"] == specs.BoundedArray((8, 8, 1), np.uint8, 0, 255, name="image")
    state, timestep = env.reset(jax.random.key(0))
    state, timestep = env.step(state, jnp.array([0.5]))
    for key, leaf in timestep.observation.items():
        spec[key].validate(np.asarray(leaf))
    assert timestep.observation["image"][3, 4, 0] == 5
    assert timestep.observation["state"][1] == 0.5


def test_a_dict_keeps_its_keys_and_the_rest_can_go():
    assert list(Pixels(Named(), 4).observation_spec) == ["image", "tag"]
    env = Pixels(Named(), 4, state=False)
    assert list(env.observation_spec) == ["image"]
    state, timestep = env.reset(jax.random.key(0))
    assert list(timestep.observation) == ["image"]
    # What can no longer be seen to be broken is told by the reward.
    _, timestep = env.step(state, jnp.array([0.9]))
    assert jnp.isnan(timestep.reward)
    _, timestep = env.step(state, jnp.array([0.4]))
    np.testing.assert_allclose(timestep.reward, 0.4)


def test_one_picture_is_taken_for_each_step_of_the_agent(monkeypatch):
    taken = []

    class Counted(Painted):
        def render(self, state, height, width):
            jax.debug.callback(lambda: taken.append(1))
            return super().render(state, height, width)

    monkeypatch.setitem(ENVS, "mine/counted", Counted)
    env = make(EnvConfig("mine/counted", action_repeat=3, pixels=4))
    assert isinstance(env, Pixels)
    assert isinstance(env.env.env, ActionRepeat)
    state, _ = env.reset(jax.random.key(0))
    taken.clear()
    _, timestep = jax.jit(env.step)(state, jnp.array([0.5]))
    jax.effects_barrier()
    assert timestep.observation["image"][0, 0, 0] == 15
    assert len(taken) == 1


def test_a_vector_keeps_the_terminal_picture_and_starts_over_with_a_fresh_one():
    env = make_vector(EnvConfig("mine/painted", time_limit=3, pixels=4), 2)
    assert env.observation_spec["image"].shape == (4, 4, 1)
    state, timestep = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    seen = []
    for _ in range(4):
        state, timestep = step(state, jnp.array([[0.5], [0.25]]))
        seen.append((timestep.step_type.tolist(), timestep.observation["image"][:, 0, 0, 0].tolist()))
    assert step._cache_size() == 1
    assert seen[2] == ([LAST, LAST], [15, 7])
    assert seen[3] == ([FIRST, FIRST], [0, 0])


@pytest.fixture(autouse=True)
def painted(monkeypatch):
    monkeypatch.setitem(ENVS, "mine/painted", Painted)


def test_a_time_limit_passes_the_state_on():
    render = make_render(TimeLimit(Painted(), 3), 2, 2)
    env = TimeLimit(Painted(), 3)
    state, _ = env.reset(jax.random.key(0))
    state, _ = env.step(state, jnp.array([0.5]))
    assert render(state).tolist() == [[[5], [5]], [[5], [5]]]


class Told(Painted):
    """``Painted`` that observes a picture and tells a number beside it."""

    @property
    def observation_spec(self) -> dict[str, specs.Array]:
        image = specs.BoundedArray((4, 4, 1), np.uint8, 0, 255)
        return {"image": image, "told": specs.Array((1,), np.float32)}

    def reset(self, key):
        state, timestep = super().reset(key)
        return state, self._tell(state, timestep)

    def step(self, state, action):
        state, timestep = super().step(state, action)
        return state, self._tell(state, timestep)

    def _tell(self, state, timestep):
        seen = {"image": self.render(state, 4, 4), "told": timestep.observation[1:2]}
        return timestep._replace(observation=seen)


def test_what_stands_beside_a_picture_can_be_hidden(monkeypatch):
    monkeypatch.setitem(ENVS, "test/told", Told)
    whole, bare = (make(EnvConfig("test/told", state=state)) for state in (True, False))
    assert (list(whole.observation_spec), list(bare.observation_spec)) == (["image", "told"], ["image"])
    key = jax.random.key(0)
    (state, seen), (other, shown) = whole.reset(key), bare.reset(key)
    for _ in range(2):
        np.testing.assert_array_equal(shown.observation["image"], seen.observation["image"])
        assert list(shown.observation) == ["image"]
        assert shown.reward == seen.reward
        (state, seen), (other, shown) = (env.step(s, jnp.full(1, 0.5)) for env, s in ((whole, state), (bare, other)))
    assert np.isnan(bare.step(other, jnp.ones(1))[1].reward)  # the physics broke, which no picture tells
