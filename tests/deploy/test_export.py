"""A policy as a file: the same actions as the agent's own, with jax alone, in the environment's units."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import dm_env
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from untrained import CONFIG

from mbrl.agents import dreamer
from mbrl.agents.brax import guest
from mbrl.agents.brax.config import SACConfig
from mbrl.agents.planning import with_planner
from mbrl.cli.main import main
from mbrl.core.errors import UserError
from mbrl.core.types import FIRST, MID, TimeStep
from mbrl.deploy import artifact, export
from mbrl.deploy.load import load_policy
from mbrl.deploy.policy import Seen, from_agent, make_policy
from mbrl.envs import ENVS, HostEnv, make, own_action
from mbrl.envs.config import EnvConfig
from mbrl.planners import PLANNERS

CEM = dataclasses.replace(PLANNERS["cem"].config, samples=8, elites=2, iterations=2, horizon=2)
DOCS = Path(__file__).parents[2] / "docs" / "deployment.md"


@pytest.fixture(scope="module")
def exported(tmp_path_factory, run_dir):
    """An export for any number of rows: its path and what the JSON says.

    By the command itself: here every shape is checked to be of numbers, which symbolic ones are not.
    """
    path = tmp_path_factory.mktemp("exported") / "policy.bin"
    words = ["export", str(run_dir), "--to", str(path), "--batch", "symbolic"]
    done = subprocess.run([sys.executable, "-m", "mbrl", *words], capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert f"policy: {path}, " in done.stdout
    return path, json.loads(path.with_suffix(".json").read_text())


def own_actions(loaded, agent, observations, mode, firsts):
    """What the agent itself does, in [-1, 1] or one-hot."""
    act = jax.jit(lambda key, carry, timestep: agent.act(loaded.state.agent, key, carry, timestep, mode))
    rows = observations.shape[1]
    carry, found = agent.initial(rows), []
    for t, (observation, first) in enumerate(zip(observations, firsts, strict=True)):
        step_type = jnp.where(first, FIRST, MID).astype(jnp.int32)
        timestep = TimeStep(step_type, jnp.zeros(rows), jnp.ones(rows), jnp.asarray(observation))
        output = act(jax.random.key(t), carry, timestep)
        carry = output.carry
        found.append(np.asarray(output.action))
    return np.stack(found)


def exported_actions(policy, observations, firsts):
    """What the file does."""
    carry, found = policy.initial(observations.shape[1]), []
    for t, (observation, first) in enumerate(zip(observations, firsts, strict=True)):
        action, carry = policy.act(carry, observation, first, t)
        found.append(np.asarray(action))
    return np.stack(found)


def episode(rows, steps=4):
    """Observations, and episodes that begin at different times."""
    rng = np.random.default_rng(rows)
    firsts = rng.random((steps, rows)) < 0.3
    firsts[0] = True
    return rng.normal(size=(steps, rows, 2)).astype(np.float32), firsts


@pytest.mark.parametrize("rows", [1, 3])
def test_it_acts_as_the_agent_does(exported, loaded, rows):
    observations, firsts = episode(rows)
    policy = load_policy(exported[0])
    assert policy.rows is None
    own = own_actions(loaded, loaded.program.agent, observations, "eval", firsts)
    np.testing.assert_allclose(exported_actions(policy, observations, firsts), own, atol=1e-6)
    assert len(np.unique(own)) > own.size / 2  # of most rows and steps another, so none can stand for another


def test_so_does_a_planner(loaded, tmp_path):
    path = tmp_path / "p.bin"
    told = export.write(make_policy(loaded, CEM), path, 2, ("cpu",))
    assert (told["rows"], told["platforms"], told["policy"]["planner"]) == (2, ["cpu"], "cem")
    observations, firsts = episode(2)
    agent = with_planner(loaded.program.agent, CEM)
    found = exported_actions(load_policy(path), observations, firsts)
    np.testing.assert_allclose(found, own_actions(loaded, agent, observations, "eval", firsts), atol=1e-6)


def test_first_forgets_whatever_was_remembered(exported):
    policy = load_policy(exported[0])
    observation = np.ones((1, 2), np.float32)
    garbage = {name: jnp.full_like(leaf, jnp.nan) for name, leaf in policy.initial(1).items()}
    fresh, _ = policy.act(policy.initial(1), observation, [True], 5)
    again, _ = policy.act(garbage, observation, [True], 5)
    np.testing.assert_array_equal(fresh, again)
    carried, _ = policy.act(garbage, observation, [False], 5)
    assert np.isnan(carried).all()


def test_the_file_holds_what_acting_needs_and_no_word_of_this_machine(exported, loaded):
    path, told = exported
    names = [entry["name"] for entry in told["parameters"]]
    assert any(name.startswith("params.actor.") for name in names)
    assert not [name for name in names if "critic" in name or "optimiser" in name]
    assert len(names) < len(jax.tree.leaves(loaded.state.agent)) / 2
    content = path.read_bytes()
    assert str(Path(export.__file__).parents[2]).encode() not in content
    assert told == json.loads(path.with_suffix(".json").read_text())
    assert told["platforms"] == ["cpu", "cuda"]
    kernel = next(entry for entry in told["parameters"] if entry["name"] == "params.actor.Dense_0.kernel")
    held = np.frombuffer(content, "<f4", int(np.prod(kernel["shape"])), kernel["offset"]).reshape(kernel["shape"])
    np.testing.assert_array_equal(held, loaded.state.agent.params["actor"]["Dense_0"]["kernel"])


def test_it_runs_with_jax_alone(exported, loaded):
    """The documentation's own lines, where `import mbrl` fails."""
    snippet = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[1]
    blocked = "import sys\nsys.modules['mbrl'] = None\n" + snippet + "print(' '.join(sorted(sys.modules)))\n"
    done = subprocess.run([sys.executable, "-I", "-c", blocked], cwd=exported[0].parent, capture_output=True, text=True,
                          check=True)
    *said, modules = done.stdout.splitlines()
    assert not [name for name in modules.split() if name.startswith(("mbrl.", "flax", "optax", "brax"))]
    zeros, firsts = np.zeros((3, 1, 2), np.float32), [[True], [False], [False]]
    own = own_actions(loaded, loaded.program.agent, zeros, "eval", np.array(firsts))
    np.testing.assert_allclose([float(line.strip("[]")) for line in said], own.ravel(), atol=1e-6)


class Arm(dm_env.Environment):
    """Lives in Python, and wants actions from 10 to 30."""

    def __init__(self, _seed):
        pass

    def observation_spec(self):
        return specs.Array((2,), np.float64)

    def action_spec(self):
        return specs.BoundedArray((1,), np.float64, 10.0, 30.0)

    def reset(self):
        return dm_env.restart(np.zeros(2))

    def step(self, _action):
        return dm_env.transition(0.0, np.zeros(2))


def test_an_environment_in_python_is_not_needed_and_its_units_are_kept(monkeypatch, tmp_path, loaded):
    monkeypatch.setitem(ENVS, "test/arm", HostEnv(Arm))
    env = EnvConfig(name="test/arm", action_repeat=3)
    policy = make_policy(loaded._replace(config=dataclasses.replace(loaded.config, env=env)))
    export.write(policy, tmp_path / "arm.bin")
    monkeypatch.delitem(ENVS, "test/arm")
    read = load_policy(tmp_path / "arm.bin")
    assert read.rows == 1
    assert read.about["task"]["action_repeat"] == 3
    told = read.about["outputs"]["action"]
    assert (told["minimum"], told["maximum"]) == (10.0, 30.0)
    observations, firsts = episode(1)
    own = own_actions(loaded, loaded.program.agent, observations, "eval", firsts)
    np.testing.assert_allclose(exported_actions(read, observations, firsts), 20 + 10 * own, atol=1e-5)


def test_a_discrete_action_is_an_index():
    seen, choices = specs.Array((2,), np.float32), specs.DiscreteArray(3)
    agent = dreamer.make(CONFIG.agent, seen, choices)
    state = jax.jit(agent.init)(jax.random.key(0))
    policy = from_agent(agent, state, seen, choices, "train")
    told = Seen(jnp.ones((32, 2)), jnp.zeros(32), jnp.ones(32), jnp.ones(32, bool))
    action, carry = jax.jit(policy.step)(policy.parameters, policy.initial(32), told, jax.random.key(3))
    assert (action.dtype, set(np.asarray(action).tolist())) == (np.int32, {0, 1, 2})
    np.testing.assert_array_equal(action, carry["action"].argmax(-1))  # the memory is of one-hot vectors


def test_a_guest_exports_as_well(tmp_path):
    action = specs.BoundedArray((2,), np.float32, -3.0, 1.0)
    sac = guest.make(SACConfig(hidden_layer_sizes=(8,)), specs.Array((3,), np.float32), specs.BoundedArray(
        (2,), np.float32, -1.0, 1.0))
    state = sac.init(jax.random.key(0))
    policy = from_agent(sac, state, specs.Array((3,), np.float32), action)
    policy = policy._replace(task={"action_repeat": 1})
    export.write(policy, tmp_path / "p.bin", "symbolic", ("cpu",))
    observation = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    timestep = TimeStep(jnp.zeros(4, jnp.int32), jnp.zeros(4), jnp.ones(4), jnp.asarray(observation))
    own = sac.act(state, jax.random.key(0), None, timestep, "eval").action
    found, carry = load_policy(tmp_path / "p.bin").act({}, observation, [True] * 4)
    np.testing.assert_allclose(found, -1 + 2 * np.asarray(own), atol=1e-6)
    assert carry == {}


class Valve:
    """Wants actions from 2 to 6; only its specs are asked for, so that whoever steps it is wrong."""

    observation_spec = specs.Array((1,), np.float32)
    action_spec = specs.BoundedArray((1,), np.float32, 2.0, 6.0)

    def reset(self, key):
        raise AssertionError(f"its specs are enough, but it was reset by {key}")

    def step(self, state, action):
        raise AssertionError(f"its specs are enough, but it was stepped from {state} by {action}")


def test_own_units_are_those_before_rescaling(monkeypatch):
    monkeypatch.setitem(ENVS, "test/valve", Valve)
    assert make(EnvConfig(name="test/valve")).action_spec.maximum == 1.0
    own = own_action(EnvConfig(name="test/valve", action_repeat=2))
    assert (own.minimum, own.maximum) == (2.0, 6.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "mbrl export needs RUN_DIR"),
        (["{run}x"], "there is no run folder"),
        (["{run}", "--to", "{tmp}"], "is the folder"),
        (["{run}", "--to", "{tmp}/none/policy.bin"], "there is no folder"),
        (["{run}", "--to", "policy.json"], "its description becomes policy.json"),
        (["{run}", "--batch", "0"], "--batch is 0, but must be a whole number from 1"),
        (["{run}", "--batch", "many"], "--batch is 'many', but must be a whole number of environments, or symbolic"),
        (["{run}", "--platforms", "cpu,cuba"], "unknown platform 'cuba'; did you mean 'cuda'?"),
        (["{run}", "--platforms", ","], "--platforms names none"),
        (["{run}", "--member", "1"], "--member is 1, but the run has 1 seeds"),
        (["{run}", "--mode", "random"], "--mode is 'random', but must be one of eval, train"),
        (["{run}", "--planner", "mpi"], "unknown planner 'mpi'; did you mean 'mppi'?"),
        (["{run}", "--planner", "cem", "--mode", "train"], "--mode train is how the run's own agent explores"),
    ],
)
def test_bad_words_are_one_sentence_and_leave_nothing(words, said, run_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *(word.format(run=run_dir, tmp=tmp_path) for word in words)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_somebody_elses_beside_it_is_left_alone(run_dir, tmp_path, capsys):
    other = tmp_path / "package.json"
    other.write_text('{"name": "mine"}')
    assert main(["export", str(run_dir), "--to", str(tmp_path / "package.bin")]) == 2
    assert "describes no exported policy; choose another name for --to" in capsys.readouterr().err
    assert other.read_text() == '{"name": "mine"}'
    assert list(tmp_path.iterdir()) == [other]


def test_without_pytorch_it_is_one_sentence(run_dir, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["export", str(run_dir), "--to", "torch"]) == 2
    assert "PyTorch is not installed, which this needs: pip install 'mbrl[torch]'" in capsys.readouterr().err


def test_what_it_is_given_is_checked(exported):
    policy = load_policy(exported[0])
    with pytest.raises(UserError, match=r"the policy observes float32\[rows, 2\], but was given float32\[1, 3\]"):
        policy.act(policy.initial(1), np.zeros((1, 3), np.float32), [True])
    with pytest.raises(UserError, match="but was given state"):
        policy.act(policy.initial(1), {"state": np.zeros((1, 2), np.float32)}, [True])
    with pytest.raises(UserError, match="acts for any environments at once, but was given 0"):
        policy.initial(0)
    assert artifact.beside(exported[0]).name == "policy.json"
