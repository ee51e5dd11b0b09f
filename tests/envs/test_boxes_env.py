"""The worlds as environments: observations, pictures, goals, knobs, robots, and how they stand being shaken."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, LAST, MID
from mbrl.envs import EnvConfig, Environment, make, make_vector, unwrap
from mbrl.envs.boxes import WORLDS, Boxes, Physics, Ranges, World, box, circle, variant
from mbrl.envs.boxes.model import build
from mbrl.envs.boxes.scene import Body, area_and_moments, placed

SHAKEN = ("object2", "urchin_cube")  # between them every kind of contact and of joint
EPISODES, STEPS = 8, 125


@pytest.fixture(scope="module", params=SHAKEN)
def shaken(request):
    """A world, and 1,000 steps of random actions in it: states, observations and rewards ``[T, E, ...]``."""
    env = variant(request.param, "" if request.param == "object2" else "body_goal")

    def play(key):
        first, act = jax.random.split(key)
        state, _ = env.reset(first)
        actions = jax.random.uniform(act, (STEPS, *env.action_spec.shape), minval=-1)

        def step(state, action):
            state, timestep = env.step(state, action)
            return state, (state, timestep, env.full_state(state))

        return jax.lax.scan(step, state, actions)[1]

    play = jax.jit(jax.vmap(play))
    keys = jax.random.split(jax.random.key(1), EPISODES)
    return env, play, keys, play(keys)


def test_nothing_leaves_the_room_or_breaks(shaken):
    env, _, _, (_, timestep, places) = shaken
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(timestep.observation))
    places = np.asarray(places).reshape(EPISODES, STEPS, -1, 3)
    thin = 0.05  # a centre of mass is inside its body, no part of which is thinner than that around it
    assert (places[..., :2] > thin).all()
    assert (places[..., 0] < env.world.width - thin).all()
    assert (places[..., 1] < env.world.height - thin).all()


def test_bodies_are_told_by_name_and_those_that_look_alike(shaken):
    env, _, _, (states, _, places) = shaken
    found = jax.vmap(jax.vmap(env.bodies))(states)
    assert set(found) == set(env.model.names)
    for number, name in enumerate(env.model.names):
        np.testing.assert_allclose(found[name], np.asarray(places)[..., 3 * number : 3 * number + 2], rtol=1e-5)
    assert env.alike == {2: (("object0", "object1"),), 5: (("aleg", "bleg", "cleg"),)}[len(found)]


def test_the_same_keys_play_the_same(shaken):
    _, play, keys, played = shaken
    jax.tree.map(np.testing.assert_array_equal, played, play(keys))


def test_limits_of_joints_hold(shaken):
    env, _, _, (state, _, _) = shaken
    angles = np.asarray(state.motion.q) @ env.model.difference.T - env.model.rest
    assert (angles > env.model.limits[:, 0] - 0.1).all()
    assert (angles < env.model.limits[:, 1] + 0.1).all()


def test_one_world_alone_does_what_it_does_among_others():
    env = Boxes("dropbox", physics=Physics(gravity=300.0))
    states, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 4))
    among, timesteps = jax.jit(jax.vmap(env.step))(states, jnp.zeros((4, 1)))
    assert (among.motion.load > 0).any(), "they never met the floor"
    alone, timestep = jax.jit(env.step)(jax.tree.map(lambda leaf: leaf[3], states), jnp.zeros(1))
    np.testing.assert_allclose(alone.motion.q, among.motion.q[3], atol=1e-4)
    np.testing.assert_array_equal(timestep.observation["image"], timesteps.observation["image"][3])


def test_hinges_do_not_come_apart(shaken):
    env, _, _, (state, _, _) = shaken
    model = env.model
    q = np.asarray(state.motion.q)[:, -1]
    x, y, _ = jax.vmap(env._start.places)(state.motion.q[:, -1], jax.tree.map(lambda knob: knob[:, -1], state.knobs))
    for j, joint in enumerate(env.world.joints):
        ends = []
        for body, anchor in ((model.names.index(joint.parent), joint.anchor_parent), (j + 1, joint.anchor_child)):
            centre = area_and_moments(env.world.bodies[body].shapes)[1]
            arm, angle = np.subtract(anchor, centre), q[:, model.angle[body]]
            turned = np.stack([np.cos(angle) * arm[0] - np.sin(angle) * arm[1],
                               np.sin(angle) * arm[0] + np.cos(angle) * arm[1]], 1)
            ends.append(turned + np.stack([x[:, body], y[:, body]], 1))
        np.testing.assert_allclose(*ends, atol=1e-4)


def test_rewards_are_boxlcds(shaken):
    env, _, _, (state, timestep, places) = shaken
    if env.goal is None:
        np.testing.assert_array_equal(timestep.reward, 0)
        return
    place = np.asarray(places).reshape(EPISODES, STEPS, -1, 3)[:, :, : env.model.robot, :2]
    scaled = 2 * place / np.array([env.world.width, env.world.height]) - 1
    away = np.abs(np.asarray(timestep.observation["goal"]) - scaled.reshape(EPISODES, STEPS, -1)).mean(-1)
    np.testing.assert_allclose(timestep.reward, -away + (away < 0.05), atol=1e-5)
    np.testing.assert_array_equal(timestep.discount, 1.0 - (away < 0.05))
    np.testing.assert_allclose(state.goal.distance, away, atol=1e-5)


ONE = World(8.0, 8.0, (16, 16), None, (Body("object0", (box(1.0, 0.5),), 0.1),))


def drawn(world, q, **changes):
    env = Boxes(world)
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    knobs = jax.tree.map(jnp.ones_like, state.knobs)
    return env, state._replace(motion=state.motion._replace(q=jnp.asarray(q, jnp.float32)), knobs=knobs, **changes)


def test_a_box_covers_its_pixels():
    env, state = drawn(ONE, [3.0, 2.5, 0.0])
    expected = np.zeros((16, 16), np.uint8)
    expected[10:12, 4:8] = 1  # x from 2 to 4 m and y from 2 to 3 m, at two pixels a metre
    np.testing.assert_array_equal(env._observe(state)["image"][..., 0], expected)
    env, state = drawn(ONE, [3.0, 2.5, np.pi / 2])
    np.testing.assert_array_equal(np.argwhere(env._observe(state)["image"][..., 0])[[0, -1]], [[9, 5], [12, 6]])


def test_a_circle_stands_in_a_boxs_place():
    world = World(8.0, 8.0, (16, 16), None, (Body("object0", (box(2.0, 2.0),), maybe_circle=True),))
    corners = [(4, 4), (4, 11), (11, 4), (11, 11)]
    for disc, there in ((0.0, 1), (1.0, 0)):
        env, state = drawn(world, [4.0, 4.0, 0.0], disc=jnp.full(1, disc))
        image = np.asarray(env._observe(state)["image"])
        assert {int(image[i, j, 0]) for i, j in corners} == {there}
        assert image[7, 4, 0] == image[8, 11, 0] == 1


def test_a_large_picture_shows_what_the_small_one_does():
    env, state = drawn(ONE, [3.0, 2.5, 0.3])
    large = np.asarray(env.render(state, 64, 64)).astype(int)
    assert large.shape == (64, 64, 3)
    covered = np.abs(large - large[0, 0]).sum(-1) > 220
    np.testing.assert_allclose(covered.mean() * 64, 2.0, rtol=0.1)  # m^2 of the 64 of the room


def test_an_odd_shapes_moments_are_those_of_its_parts():
    whole = area_and_moments([box(1.0, 0.5)])
    np.testing.assert_allclose(whole[2], 2 * 1 * (4 + 1) / 12)
    halves = [placed(box(0.5, 0.5), (x, 0.3), 0.0) for x in (-0.5, 0.5)]
    area, centre, second = area_and_moments(halves)
    np.testing.assert_allclose([area, *centre, second], [whole[0], 0, 0.3, whole[2]], atol=1e-12)
    area, _, second = area_and_moments([circle(2.0)])
    np.testing.assert_allclose([area, second], [4 * np.pi, 8 * np.pi])


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_every_world_traces_and_says_what_it_shows(name):
    env = variant(name)
    assert isinstance(env, Environment)
    key = jax.eval_shape(partial(jax.random.key, 0))
    state, timestep = jax.eval_shape(env.reset, key)
    action = jax.ShapeDtypeStruct(env.action_spec.shape, jnp.float32)
    later, after = jax.eval_shape(env.step, state, action)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), later) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state)
    for seen in (timestep.observation, after.observation):
        assert {k: (s.shape, s.dtype) for k, s in seen.items()} == {
            k: (s.shape, s.dtype) for k, s in env.observation_spec.items()}
    assert len(env.full_state_names) == jax.eval_shape(env.full_state, state).shape[0]
    assert ("proprio" in env.observation_spec) == (len(env.proprio_names) > 0)
    assert env.observation_spec["image"].maximum == 1


def test_sizes_and_actions_are_boxlcds():
    shapes = {name: (variant(name).observation_spec["image"].shape[:2], variant(name).action_spec.shape[0])
              for name in ("bounce", "urchin", "luxo_cube", "crab")}
    assert shapes == {
        "bounce": ((16, 16), 1), "urchin": ((16, 32), 3), "luxo_cube": ((16, 24), 3), "crab": ((32, 64), 12)}


@pytest.fixture(scope="module")
def vector():
    """Four small worlds with drawn knobs, episodes of three steps, and nine steps of them."""
    env = make_vector(EnvConfig("boxes/bounce@object_goal+goal_image+random", time_limit=3), 4)
    state, timestep = jax.jit(env.reset)(jax.random.key(0))
    step, steps, states = jax.jit(env.step), [timestep], [state]
    for _ in range(9):
        state, timestep = step(state, jnp.zeros((4, 1)))
        steps.append(timestep)
        states.append(state)
    return env, step, jax.tree.map(lambda *leaves: np.stack(leaves), *steps), states


def test_a_vector_of_worlds_starts_over_and_compiles_once(vector):
    _, step, timestep, _ = vector
    assert step._cache_size() == 1
    for env in range(4):
        types = timestep.step_type[:, env].tolist()
        assert types.count(LAST) >= 2
        assert all(types[i + 1] == FIRST for i, kind in enumerate(types[:-1]) if kind == LAST)
    assert timestep.observation["image"].dtype == np.uint8
    assert set(np.unique(timestep.observation["image"])) == {0, 1}


def test_knobs_differ_between_episodes_and_are_read_back(vector):
    env, _, timestep, states = vector
    knobs = []
    for state in states:
        inner, held = unwrap(env.env, state.env)
        knobs.append(inner.knobs(held))
    for name, values in zip(Ranges.__dataclass_fields__, zip(*knobs, strict=True), strict=True):
        values = np.stack(values)
        low, high = getattr(Ranges(), name)
        assert low <= values.min() < values.max() <= high
        starts = timestep.step_type == FIRST
        assert len(np.unique(values[starts])) == starts.sum()
        np.testing.assert_array_equal(values[1:][~starts[1:]], values[:-1][~starts[1:]])


def test_the_goals_picture_is_seen_and_stays(vector):
    _, _, timestep, _ = vector
    goal = timestep.observation["goal_image"]
    assert goal.shape == (10, 4, 16, 16, 1)
    assert (goal.sum((2, 3, 4)) > 4).all()
    same = timestep.step_type[1:] != FIRST
    np.testing.assert_array_equal(goal[1:][same], goal[:-1][same])


def test_a_gradient_through_the_physics_is_the_closed_form():
    env = Boxes("bounce")
    state, _ = env.reset(jax.random.key(0))
    state = state._replace(motion=state.motion._replace(q=jnp.array([2.5, 4.0, 0.0])))

    def right(wind):
        later, _ = env.step(state._replace(knobs=state.knobs._replace(wind=wind)), jnp.zeros(1))
        return env.full_state(later)[0]

    np.testing.assert_allclose(jax.jit(jax.grad(right))(jnp.float32(0.5)), 0.1**2 / 2, rtol=1e-3)


def test_physics_are_set_in_python():
    env = Boxes("dropbox", physics=Physics(gravity=3.0), ranges=Ranges(gravity=None, size=(0.5, 0.6)))
    state, _ = env.reset(jax.random.key(0))
    knobs = env.knobs(state)
    assert knobs.gravity == 3.0
    assert 0.5 <= knobs.size <= 0.6


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"physics": Physics(density=0.0)}, "physics.density is 0.0, but must be above 0"),
        ({"physics": Physics(friction=-1.0)}, "physics.friction is -1.0, but must be at least 0"),
        ({"physics": Physics(gravity=np.nan)}, "physics.gravity is nan, but must be finite"),
        ({"ranges": Ranges(size=(-0.5, 1.0))}, "an end of ranges.size is -0.5, but must be above 0"),
        ({"physics": Physics(size=5.1)},
         "physics.size is 5.1, but must be at most 5 for each body to fit into this room by itself"),
        ({"physics": Physics(size=9.0), "ranges": Ranges(size=(1.0, 6.0))},
         "an end of ranges.size is 6.0, but must be at most 5 for each body to fit into this room by itself"),
        ({"ranges": Ranges(wind=(2.0, -2.0))}, "ranges.wind is from 2.0 to -2.0, but must begin with the smaller one"),
    ],
)
def test_knobs_that_make_no_sense_are_told(knobs, sentence):
    with pytest.raises(UserError) as error:
        Boxes("bounce", **knobs)
    assert str(error.value) == sentence
    Boxes("bounce", physics=Physics(gravity=-1.0, friction=0.0), ranges=Ranges(wind=(1.0, 1.0), size=None))
    Boxes("bounce", physics=Physics(size=5.0))


def test_the_largest_bodies_still_find_a_place_within_the_walls():
    """Twice its size an urchin just fits; what is larger is refused."""
    env = Boxes("urchin", physics=Physics(size=2.0))
    state, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 16))
    x, y = state.motion.q[:, 0], state.motion.q[:, 1]
    assert (x >= 2.5 - 1e-5).all()
    assert (x <= 7.5 + 1e-5).all()
    np.testing.assert_allclose(y, 2.5, atol=1e-5)
    with pytest.raises(UserError, match="must be at most 2 for each body"):
        Boxes("urchin", physics=Physics(size=2.01))
    with pytest.raises(UserError, match=r"is 3\.536, but must be at most 3\.53 for each body"):
        Boxes("object2", physics=Physics(size=3.536))


def test_a_reached_goal_ends_the_episode():
    env = variant("bounce", "object_goal")
    state, timestep = env.reset(jax.random.key(0))
    assert timestep.step_type == FIRST
    step = jax.jit(env.step)
    later, away = step(state, jnp.zeros(1))
    assert (away.step_type, away.discount) == (MID, 1.0)
    np.testing.assert_allclose(away.reward, 10 * (state.goal.distance - later.goal.distance) - 0.05, atol=1e-4)
    goal = state.goal._replace(position=env._aim(later.motion, later.knobs), distance=jnp.float32(0.25))
    _, reached = step(state._replace(goal=goal), jnp.zeros(1))
    assert (reached.step_type, reached.discount) == (LAST, 0.0)
    np.testing.assert_allclose(reached.reward, 2.5 - 0.05 + 1, atol=1e-4)
    assert step._cache_size() == 1


def test_parts_of_a_robot_pass_through_each_other_and_some_through_objects():
    model = build(WORLDS["urchin_cube"]())
    names = [tuple(model.names[model.solids[i].body] for i in pair) for pair in model.pairs]
    assert names == [("aleg", "object0"), ("bleg", "object0"), ("cleg", "object0")]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("boxes/urchn", "did you mean 'boxes/urchin'?"),
        ("boxes/urchin@body_gaol", "unknown variant of a box world 'body_gaol'; did you mean 'body_goal'?"),
        ("boxes/urchin@object_goal", "a goal of kind 'object' needs a world with an object; this one has none"),
        ("boxes/bounce@object_body_goal", "a goal of kind 'object_body' needs a world with a robot; this one has none"),
        ("boxes/urchin_cube@body_goal+object_goal", "has two goals, but there can be one"),
        ("boxes/bounce@goal_image", "asks for a goal's picture, but names no goal such as body_goal"),
    ],
)
def test_bad_names_are_told(name, sentence):
    with pytest.raises(UserError) as error:
        make(EnvConfig(name))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
