"""`mbrl reproduce` on a suite of an agent that compiles in a moment."""

import json
import subprocess
import sys

import pytest
import toy_agent

from mbrl.cli.main import main

SUITE = """
name: toys
about: What a toy scores.
steps: 64
seeds: 2
agents:
  toy: {experiment: toy.yaml}
tasks:
  reward:
    env: probe/reward
    bar: 9.5
    references:
      - {agent: optimum, score: 10, at: any, source: "probes.py: Reward"}
      - {agent: theirs, score: 4, at: 32, source: a paper, kind: mean of 3 seeds}
      - {agent: theirs, score: 5, at: 1e6, source: a paper, kind: mean of 3 seeds}
"""
EXPERIMENT = f"{toy_agent.SETTINGS}evaluation: {{every: 32, episodes: 2, gap: false}}\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a suite and its experiment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toys.yaml").write_text(SUITE)
    later = SUITE.replace("name: toys", "name: later\nunavailable: its robot is not built")
    (tmp_path / "later.yaml").write_text(later)
    (tmp_path / "toy.yaml").write_text(EXPERIMENT)
    return tmp_path


def test_a_suite_from_nothing_to_its_table_and_page(here, capsys):
    words = ["reproduce", "toys.yaml", "--task", "reward", "--seeds", "1"]
    assert main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert "reward, toy, seed 0: runs/reproduce/toys/reward/toy/seed-0" in err
    (row,) = json.loads(out)["rows"]
    assert (row["iqm"], row["interval"], row["steps"], row["passed"], row["seeds"]) == (10, None, [64], True, 1)
    assert [one["difference"] for one in row["references"]] == [0, 6, None]
    assert row["seconds"] > 0
    assert row["machines"]

    metrics = here / "runs/reproduce/toys/reward/toy/seed-0/metrics.jsonl"
    before = metrics.read_bytes()
    assert main(["reproduce", "toys.yaml", "--html", "page.html"]) == 0
    out, _ = capsys.readouterr()
    assert metrics.read_bytes() == before
    table = out[out.index("task ") :].splitlines()
    assert table[1].split()[:6] == ["reward", "toy", "2", "64", "10.00", "[10.00,"]
    assert "9.50: pass" in table[1]
    assert table[2].split()[3] == "32"
    assert table[3:] == ["[1] probes.py: Reward", "[2] mean of 3 seeds; a paper", "page: page.html"]
    page = (here / "page.html").read_text()
    assert "Suite toys, beside published scores" in page
    assert "mean of 3 seeds; a paper" in page


def test_how_soon_a_goal_was_reached(here, capsys):
    (here / "toys.yaml").write_text(SUITE.replace("bar: 9.5", "goal: 9.5"))
    words = ["reproduce", "toys.yaml"]
    assert main([*words, "--json"]) == 0
    out, _ = capsys.readouterr()
    (pace,) = json.loads(out)["goals"]
    assert (pace["task"], pace["agent"], pace["goal"], pace["median_steps"]) == ("reward", "toy", 9.5, 32)
    assert [(one["seed"], one["steps"]) for one in pace["seeds"]] == [(0, 32), (1, 32)]
    assert pace["median_seconds"] > 0
    assert main([*words, "--html", "page.html"]) == 0
    out, _ = capsys.readouterr()
    last = out.splitlines()[-2].split()
    assert last[:7] == ["reward", "toy", "9.50", "32", "·", "32", "32"]
    assert "How soon" in (here / "page.html").read_text()


def test_a_missed_bar_is_exit_code_1(here):
    (here / "toys.yaml").write_text(SUITE.replace("bar: 9.5", "bar: 10.5"))
    assert main(["reproduce", "toys.yaml", "--task", "reward", "--seeds", "1", "--json"]) == 1


def test_one_bad_run_is_a_sentence_and_the_table_is_there(here, capsys):
    """An agent that cannot do the task, and an empty config of a run there was."""
    both = SUITE.replace("toy: {exp", "sac: {settings: {num_envs: 2}}\n  toy: {exp")
    (here / "toys.yaml").write_text(both.replace("probe/reward", "probe/sight"))
    broken = here / "runs/reproduce/toys/reward/toy/seed-1"
    broken.mkdir(parents=True)
    (broken / "config.yaml").write_text("")
    assert main(["reproduce", "toys.yaml", "--html", "page.html"]) == 1
    out, err = capsys.readouterr()
    assert "mbrl: sac on reward, seed 0 failed: sac takes one vector as observation" in err
    assert "mbrl: toy on reward, seed 1 failed: runs/reproduce/toys/reward/toy/seed-1/config.yaml is empty" in err
    table = out[out.index("task ") :]
    assert "2 of 2 failed" in table
    assert "1 of 2 failed" in table
    assert "failed: runs/reproduce/toys/reward/toy/seed-1, seed 1: " in table
    assert (here / "runs/reproduce/toys/reward/toy/seed-0/checkpoints").is_dir()
    assert out.endswith("page: page.html\n")
    assert (here / "page.html").is_file()
    assert main(["reproduce", "toys.yaml", "--agent", "sac", "--html", "none.html"]) == 1
    out, _ = capsys.readouterr()
    assert out.endswith("page: none in none.html, as no run was evaluated\n")
    assert not (here / "none.html").exists()


WRONG = {
    "no suite": ([], "mbrl reproduce needs SUITE"),
    "no such suite": (["quik"], "unknown suite 'quik'; did you mean 'quick'?"),
    "a suite that cannot be run": (["later.yaml"], "suite 'later' cannot be run: its robot is not built"),
    "no such task": (["toys.yaml", "--task", "reword"], "unknown task of suite 'toys': 'reword'; did you"),
    "no such agent": (["toys.yaml", "--agent", "toi"], "unknown agent of suite 'toys': 'toi'; did you mean 'toy'?"),
    "no number of seeds": (["toys.yaml", "--seeds", "many"], "--seeds is 'many', but must be"),
    "no seeds": (["toys.yaml", "--seeds", "0"], "--seeds must be at least 1, not 0"),
    "no budget": (["toys.yaml", "--budget", "lots"], "--budget is 'lots', but must be env steps, such as 100k"),
    "a page in no folder": (["toys.yaml", "--html", "none/a.html"], "there is no folder none; make it first"),
    "a page that is a folder": (["toys.yaml", "--html", "."], "which is a folder; give a file, such as reproduce.html"),
    "an unknown option": (["toys.yaml", "--tsak", "x"], "did you mean '--task'?"),
}


@pytest.mark.parametrize(("argv", "sentence"), WRONG.values(), ids=list(WRONG))
def test_bad_input_is_one_sentence_and_leaves_nothing(argv, sentence, here, capsys):
    assert main(["reproduce", *argv]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("mbrl: ")
    assert sentence in err
    assert sorted(path.name for path in here.iterdir()) == ["later.yaml", "toy.yaml", "toys.yaml"]


def test_two_labels_that_would_share_a_folder_are_refused_before_anything_runs(here, capsys):
    two = "  toy +a: {experiment: toy.yaml}\n  toy -a: {experiment: toy.yaml}"
    (here / "toys.yaml").write_text(SUITE.replace("  toy: {experiment: toy.yaml}", two))
    assert main(["reproduce", "toys.yaml"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "'toy +a' on 'reward' and 'toy -a' on 'reward' would both be run in" in err
    assert not (here / "runs").exists()


def test_help_loads_no_physics_and_no_pictures(tmp_path):
    code = "import sys\nfrom mbrl.cli.main import main\nmain(['reproduce', '--help'])\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "--budget" in done.stdout
    assert {"brax", "mujoco", "matplotlib", "orbax", "jax"}.isdisjoint(done.stdout.split())
