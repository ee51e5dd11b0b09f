"""Suites: those there are, and what their reader refuses."""

from pathlib import Path

import pytest

from mbrl.cli import experiments, fields, suites
from mbrl.core.errors import UserError
from mbrl.envs import make, probes
from mbrl.envs.config import EnvConfig
from mbrl.runner.checks import check

SMALL = """
name: small
about: Two tasks.
seeds: 2
agents:
  dreamer: {experiment: quickstart}
tasks:
  one: {env: probe/cue, steps: 100k, bar: 1e1, references: [{agent: a, score: 1, at: 1e5, source: a paper}]}
  two:
    env: probe/action
    action_repeat: 2
    steps: 2000
    agents: {dreamer slow: {settings: {agent: {size: nano}, train_ratio: 16}}}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a suite of its own, and the checkout's experiments."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


def test_names():
    assert {"quick", "brax", "dmc-proprio", "dmc-vision"} <= set(suites.names())
    assert not [name for name in experiments.names() if name.startswith("suites")]


@pytest.mark.parametrize("name", suites.names())
def test_every_suite_there_is(name):
    suite = suites.read(name)
    found = suites.configs(suite, (), (), None)
    assert {task.name for task, _, _ in found} == {task.name for task in suite.tasks}
    for task, _, config in found:
        check(config)
        assert (config.env.name, config.env.action_repeat, config.steps) == (task.env, task.action_repeat, task.steps)
    for reference in (one for task in suite.tasks for one in task.references):
        assert ": " in reference.source


def test_what_the_probes_know_is_what_the_suite_says():
    for task in suites.read("quick").tasks:
        if not task.env.startswith("probe/"):
            continue
        probe = make(EnvConfig(task.env))
        while not isinstance(probe, probes.Probe):
            probe = probe.env
        known = {"optimum": probe.optimal_return, "random": probe.random_return}
        assert {one.agent: one.score for one in task.references} == pytest.approx(known)
        assert known["random"] < task.bar < known["optimum"]


def test_published_scores_as_the_repositories_have_them():
    """Averages of the last column but one of the files, for two tasks done by another hand."""
    tasks = {task.name: task for task in suites.read("dmc-proprio").tasks}
    found = {(one.agent, one.at): one.score for one in tasks["WalkerWalk"].references}
    assert found["DreamerV3", 100_000] == pytest.approx(426.8, abs=0.1)
    assert found["DreamerV3", 500_000] == pytest.approx(937.5, abs=0.1)
    assert found["TD-MPC2", 100_000] == pytest.approx(962, abs=0.5)
    assert not tasks["PointMass"].references
    assert all(task.action_repeat == 2 for task in tasks.values())


@pytest.mark.usefixtures("here")
def test_shared_settings_and_those_of_a_task():
    suite = suites.read("small.yaml")
    one, two = suite.tasks
    assert (one.steps, one.seeds, one.action_repeat, one.bar) == (100_000, 2, None, 10)
    assert one.references[0].at == 100_000
    assert (two.steps, two.seeds, two.action_repeat, two.bar) == (2000, 2, 2, None)
    (held, _, first), (_, label, second) = suites.configs(suite, (), (), 4096)
    assert (held.action_repeat, first.env.action_repeat) == (1, 1)
    assert first.agent.behaviour.bins == 63
    assert label == "dreamer slow"
    assert (second.train_ratio, second.env.action_repeat, second.steps) == (16, 2, 4096)
    assert [task.name for task, _, _ in suites.configs(suite, ("two",), (), None)] == ["two"]
    assert [task.name for task, _, _ in suites.configs(suite, (), ("dreamer",), None)] == ["one"]


@pytest.mark.parametrize(("suites_own", "held"), [("", 4), ("action_repeat: 4", 4), ("action_repeat: 2", None)])
def test_an_experiments_action_repeat_is_kept_or_the_suite_refused(suites_own, held, here):
    (here / "held.yaml").write_text("{agent: dreamer, env: {name: probe/cue, action_repeat: 4}}")
    text = SMALL.replace("experiment: quickstart", "experiment: held.yaml")
    (here / "small.yaml").write_text(text.replace("seeds: 2", f"seeds: 2\n{suites_own}"))
    suite = suites.read("small.yaml")
    if held is None:
        said = r"'one', agent 'dreamer': action_repeat is 2, but its experiment has env\.action_repeat 4; leave one of"
        with pytest.raises(UserError, match=said):
            suites.configs(suite, ("one",), (), None)
        return
    ((task, _, config),) = suites.configs(suite, ("one",), (), None)
    assert (task.action_repeat, config.env.action_repeat) == (held, held)


@pytest.mark.usefixtures("here")
def test_an_agent_may_have_its_own_env_steps():
    own = SMALL.replace("steps: 100k, bar", "goal: 950, steps: 100k, bar").replace(
        "agents:\n  dreamer: {exp", "agents:\n  dreamer long: {experiment: quickstart, steps: 1M}\n  dreamer: {exp")
    Path("small.yaml").write_text(own)
    suite = suites.read("small.yaml")
    assert [task.goal for task in suite.tasks] == [950, None]
    found = suites.configs(suite, ("one",), (), None)
    assert [(label, task.steps, config.steps) for task, label, config in found] == [
        ("dreamer long", 1_000_000, 1_000_000), ("dreamer", 100_000, 100_000)]
    assert [config.steps for _, _, config in suites.configs(suite, ("one",), (), 4096)] == [4096, 4096]

    Path("small.yaml").write_text(own.replace("steps: 100k, ", "").replace("dreamer: {", "dreamer: {steps: 2k, "))
    assert suites.read("small.yaml").tasks[0].steps == 1_000_000


WRONG = {
    "no source": (", source: a paper", "", "tasks.one.references[0] has no source; say where the score stands"),
    "no score": ("score: 1, ", "", "references[0].score is missing, but must be a number"),
    "a score that is none": ("score: 1,", "score: high,", "references[0].score is 'high', but must be a number"),
    "no steps of a score": ("at: 1e5, ", "", "references[0].at is missing, but must be a whole number"),
    "an unknown key": ("bar: 1e1", "baar: 1", "tasks.one: unknown key 'baar'; did you mean 'bar'?"),
    "an unknown key of all": ("seeds: 2", "seds: 2", "small.yaml: unknown key 'seds'; did you mean 'seeds'?"),
    "an unknown key of a score": ("score: 1,", "score: 1, step: 3,", "references[0]: unknown key 'step'"),
    "an unknown key of an agent": ("{experiment:", "{experiments:", "unknown key 'experiments'; did you mean 'experim"),
    "no budget": ("steps: 100k, ", "", "tasks.one.steps is missing, but must be a whole number"),
    "a budget that is none": ("steps: 100k", "steps: 1.5", "tasks.one.steps is '1.5', but must be a whole number"),
    "an agent's budget that is none": ("{experiment:", "{steps: soon, experiment:", "dreamer.steps is 'soon', but mus"),
    "a goal that is none": ("bar: 1e1", "goal: high", "tasks.one.goal is 'high', but must be a number"),
    "no tasks": (SMALL[SMALL.index("tasks:") :], "tasks: {}", "tasks is '{}', but must be a mapping"),
    "another name": ("name: small", "name: smal", "name is 'smal', but a suite is called as its file: 'small'"),
    "an unknown environment": ("env: probe/cue", "env: probe/queue", "unknown environment 'probe/queue'; did you mean"),
    "an unknown experiment": ("experiment: quickstart", "experiment: quickstar", "no experiment or run 'quickstar'"),
    "an unknown agent": ("dreamer slow", "dremer slow", "agent 'dremer slow': unknown agent 'dremer'; did you mean"),
    "an unknown setting": ("train_ratio", "train_rate", "unknown key 'train_rate'; did you mean 'train_ratio'?"),
    "a setting of the suite's": ("train_ratio: 16", "steps: 16", "settings hold steps, which the suite itself says"),
    "references that are no list": ("[{agent: a,", "{agent: {agent: a,", "tasks.one.references is no list"),
}


@pytest.mark.parametrize(("old", "new", "sentence"), WRONG.values(), ids=list(WRONG))
def test_a_suite_that_is_not_right(old, new, sentence, here):
    text = SMALL.replace(old, new)
    if "no list" in sentence:
        text = text.replace("a paper}]", "a paper}}")
    assert text != SMALL
    (here / "small.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        suites.configs(suites.read("small.yaml"), (), (), None)
    assert sentence in str(caught.value)


@pytest.mark.usefixtures("here")
def test_unknown_names():
    with pytest.raises(UserError, match=r"unknown suite 'quik'; did you mean 'quick'\?"):
        suites.read("quik")
    Path("list.yaml").write_text("- 3")
    with pytest.raises(UserError, match=r"list.yaml holds a list, but a suite is a mapping of settings such as"):
        suites.read("list.yaml")


@pytest.mark.parametrize(
    ("word", "number"),
    [("100k", 100_000), ("1e5", 100_000), ("100000", 100_000), ("0.5M", 500_000), ("100,000", 100_000), ("1.5", None),
     ("many", None), ("", None), ("k", None), ("inf", None), ("1e400k", None)],
)
def test_counts(word, number):
    assert fields.count(word) == number
