"""When planning pays: the arithmetic of the verdict, and the command with everything as small as it gets."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from mbrl.bench import control, when
from mbrl.cli.main import main
from mbrl.planners import PLANNERS, make


def test_the_interval_by_hand():
    # 1, 2, 3: mean 2, deviation 1, standard error 1/sqrt 3; t of 2 degrees of freedom is 4.3027.
    found = when.gain(np.array([1.0, 2.0, 3.0]), worth=0.1)
    half = 4.30265 / math.sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2 - half, 2 + half), rel=1e-5)
    assert found.pays == "unclear"


@pytest.mark.parametrize(
    ("differences", "pays"),
    [
        ([1.0, 1.1, 0.9], "yes"),
        ([-1.0, -1.1, -0.9], "no"),
        ([0.0, 0.0, 0.0], "no"),  # what changes nothing only costs time
        ([0.04, 0.05, 0.06], "no"),  # a gain, but not worth having
        ([-3.0, 0.0, 4.0], "unclear"),
        ([5.0], "unclear"),  # one seed says nothing of others
    ],
)
def test_what_pays(differences, pays):
    assert when.gain(np.array(differences), worth=0.1).pays == pays


def test_an_exact_model_has_the_policys_regret_to_beat():
    known = control.lqr()
    key = jax.random.key(3)
    policy = jax.jit(lambda key: control.policy_regret(known, key, 8, 5))(key)
    planner = make(dataclasses.replace(PLANNERS["soft_tree"].config, choose="mean", refine=0), known.problem)
    planned = jax.jit(lambda key: control.regret(known, planner, key, 8, 5))(key)
    assert policy.shape == planned.shape == (8,)
    # In the first step half the best action lacks (u*/2)'C(u*/2); what follows can only add to it.
    system = control.make_lqr()
    first = known.begin(jax.random.split(key)[0], 8)
    best = -first @ system.k.T
    curve = system.r + control.GAMMA * system.b.T @ system.p @ system.b
    least = np.einsum("bi,ij,bj->b", best, curve, best) / 4
    assert (np.asarray(policy) >= least - 1e-4).all()
    assert (np.asarray(policy) > 0).all()


@pytest.fixture
def _tiny(monkeypatch):
    model = dataclasses.replace(when._CONFIG.agent.worldmodel, deter=16, hidden=8, units=8, stoch=4, bins=15)
    acts = dataclasses.replace(when._CONFIG.agent.behaviour, bins=15, actor_layers=1, critic_layers=1)
    agent = dataclasses.replace(when._CONFIG.agent, worldmodel=model, behaviour=acts)
    replay = dataclasses.replace(when._CONFIG.replay, capacity=64, batch_size=2, batch_length=4)
    config = dataclasses.replace(when._CONFIG, num_envs=2, prefill=32, epoch=32, replay=replay, agent=agent)
    cem = dataclasses.replace(PLANNERS["icem"].config, samples=4, iterations=1, elites=2, kept=0, horizon=2)
    monkeypatch.setattr(when, "_CONFIG", config)
    monkeypatch.setattr(when, "ROWS", {"icem": cem})
    monkeypatch.setattr(when, "WHOLE", {"whole": cem})
    monkeypatch.setattr(when, "TASKS", {"sparse": when.TASKS["sparse"]})
    monkeypatch.setattr(when, "EXACT", {"lqr, 6 actions": control.lqr})


@pytest.mark.usefixtures("_tiny")
def test_the_command_prints_its_plan_and_rows(capsys):
    argv = ["bench", "planners", "--when", "--steps", "64", "--seeds", "2", "--episodes", "2", "--json"]
    assert main(argv) == 0
    said = capsys.readouterr()
    line, plan = said.out, said.err
    assert "64 env steps, 2 seeds side by side, 2 episodes" in plan
    report = json.loads(line)
    rows = {(row["task"], row["acts_by"]): row for row in report["rows"]}
    tasks = ["sparse: probe/goal", "exact model: lqr, 6 actions"]
    assert list(rows) == [*((task, by) for task in tasks for by in ("policy", "icem")), (tasks[1], "whole")]
    assert report["left_out"] == []
    for (_, by), row in rows.items():
        assert row["model_steps"] == (0 if by == "policy" else 8)
        assert row["ms"] > 0
        assert ("pays" in row) == (by != "policy")
    assert rows["sparse: probe/goal", "icem"]["env_steps"] == 64
    without, planned = (rows["sparse: probe/goal", by]["return"] for by in ("policy", "icem"))
    assert rows["sparse: probe/goal", "icem"]["gain"] == pytest.approx(planned - without, abs=2e-4)
    told = when.table(report)
    assert "sparse: probe/goal" in told
    assert "not begun" not in told


@pytest.mark.usefixtures("_tiny")
def test_what_there_is_no_time_for_is_said(capsys):
    assert main(["bench", "planners", "--when", "--minutes", "0"]) == 0
    assert "not begun: sparse, lqr, 6 actions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["planners", "--when", "--seeds", "0"], "--seeds must be at least 1, not 0"),
        (["planners", "--when", "--steps", "1280"], "--steps must be 0, or above the 1280 random steps that come"),
        (["planners", "--when", "--minutes", "nan"], "--minutes must be at least 0"),
        (["planners", "--when", "--task", "sparce"], "did you mean 'sparse'"),
        (["epoch", "--when"], "mbrl bench planners --when"),
    ],
)
def test_what_is_wrong_is_one_sentence(words, said, capsys):
    assert main(["bench", *words]) == 2
    assert said in capsys.readouterr().err
