"""Runs that were saved go on: a setting that is new or gone must not lock them out."""

from pathlib import Path

import pytest
import yaml

from mbrl.agents import AGENTS
from mbrl.cli.config import load
from mbrl.runner import yaml_file
from mbrl.runner.checks import check_same
from mbrl.runner.config import came_later, to_yaml, up_to_date

# Each setting, and the agents whose saved runs have it.
SAVED = {
    key: names.split()
    for key, names in (line.split(": ") for line in Path(__file__).with_name("settings.txt").read_text().splitlines())
}
# Other tests register agents of their own.
OURS = [name for name, entry in AGENTS.items() if entry.config.__module__.startswith("mbrl.")]


def test_all_agents_are_told_of():
    assert set(OURS) == {name for names in SAVED.values() for name in names}


BOTH = [("muzero", "mctx"), ("muzero", "soft_tree")]


@pytest.mark.parametrize(("agent", "planner"), [*((name, "") for name in OURS if name != "muzero"), *BOTH])
def test_what_runs_were_saved_with(agent, planner):
    words = {"agent": agent} | ({"agent.planner": planner} if planner else {})
    now = dict(yaml_file.flatten(yaml.safe_load(to_yaml(load(overrides=words)))))
    then = {key: None for key, names in SAVED.items() if agent in names} | {"agent.name": agent}
    if planner:  # MuZero's runs had the name alone there, which says which of the others are still told
        then["agent.planner"] = planner
    saved = set(up_to_date(then))
    new = {key for key in now if key not in saved}
    assert not new, f"put {sorted(new)} into config.came_later, with what a run did before there was such a setting"
    gone = saved - set(now)
    assert not gone, f"runs saved with {sorted(gone)} can no longer be read"


@pytest.mark.parametrize("agent", OURS)
def test_what_came_later_was_not_there_before(agent):
    assert not [key for key in came_later(agent) if agent in SAVED.get(key, ())]


def test_muzeros_planner_was_a_name_with_the_settings_of_both_beside_it(tmp_path):
    config = to_yaml(load(overrides={"agent": "muzero", "agent.planner": "soft_tree", "agent.planner.rounds": 3}))
    tree = yaml.safe_load(config)
    before = tree | {"agent": tree["agent"] | {
        "planner": "soft_tree", "soft_tree": tree["agent"]["planner"], "mctx": {"name": "mctx", "simulations": 5},
    }}
    (tmp_path / "metrics.jsonl").touch()
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(before))
    assert to_yaml(load(path)) == config
    check_same(path.read_text(), load(path))
    path.write_text(config)
    assert to_yaml(load(path)) == config
