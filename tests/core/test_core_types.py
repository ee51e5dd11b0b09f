import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from mbrl.core import types
from mbrl.core.errors import UserError, nearest, unknown

DISCRETE = specs.DiscreteArray(3)
BOX = specs.BoundedArray((2, 3), np.float32, -1.0, 1.0)


def test_restart_is_first_with_no_reward_and_nothing_discounted():
    step = types.restart(jnp.zeros(2))
    assert (int(step.step_type), float(step.reward), float(step.discount)) == (0, 0.0, 1.0)
    assert bool(step.first())
    assert not bool(step.last())


def test_first_and_last_by_entry():
    step = types.TimeStep(jnp.array([types.FIRST, types.MID, types.LAST]), jnp.zeros(3), jnp.ones(3), jnp.zeros((3, 1)))
    np.testing.assert_array_equal(step.first(), [True, False, False])
    np.testing.assert_array_equal(step.last(), [False, False, True])


def test_an_observation_as_a_dict():
    assert types.as_dict({"image": 1}) == {"image": 1}
    assert types.as_dict(5) == {types.STATE: 5}


@pytest.mark.parametrize(("spec", "length"), [(DISCRETE, 3), (BOX, 6), (specs.BoundedArray((), np.float32, 0, 1), 1)])
def test_action_dim(spec, length):
    assert types.action_dim(spec) == length


def test_actions_as_the_environment_takes_them():
    one_hot = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(types.to_env_action(DISCRETE, one_hot), [1, 2])
    flat = jnp.arange(12.0).reshape(2, 6)
    np.testing.assert_array_equal(types.to_env_action(BOX, flat)[1], [[6, 7, 8], [9, 10, 11]])


def test_an_example_has_the_specs_shapes_and_dtypes():
    spec = {"image": specs.BoundedArray((4, 4, 3), np.uint8, 0, 255), "state": specs.Array((2,), np.float32)}
    zeros = types.example(spec)
    assert {name: (x.shape, x.dtype.name) for name, x in zeros.items()} == {
        "image": ((4, 4, 3), "uint8"),
        "state": ((2,), "float32"),
    }


def test_the_nearest_name_is_offered():
    assert nearest("hoper", ["hopper", "ant"]) == "; did you mean 'hopper'?"
    assert nearest("xyz", ["hopper", "ant"]) == ""


def test_an_unknown_name_in_a_sentence():
    assert str(unknown("environment", "brax/hoper", ["brax/hopper", "brax/ant"])) == (
        "unknown environment 'brax/hoper'; did you mean 'brax/hopper'?"
    )
    assert str(unknown("agent", "xyz", ["b", "a"])) == "unknown agent 'xyz'; known are a, b"
    assert isinstance(unknown("agent", "x", []), UserError)
