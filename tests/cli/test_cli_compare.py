"""`mbrl compare`: its table, its JSON, its page and what it refuses."""

import json
import subprocess
import sys

import pytest
from toy_folders import write_run

from mbrl.cli.main import main


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A working folder with a run of four seeds, one of one seed, and a longer one of another agent."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "four", seeds=4, scores=[(1.0, 2.0, 3.0, 40.0), (2.0, 4.0, 6.0, 80.0)])
    write_run(tmp_path / "one", env="toy/other", scores=[7.0, 8.0])
    write_run(tmp_path / "long", agent="planner", scores=[1.0, 2.0, 3.0])
    return tmp_path


@pytest.mark.usefixtures("runs")
def test_the_table(capsys):
    assert main(["compare", "four", "one"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    head, four, one = out.splitlines()
    assert head.startswith("task       agent    seeds")
    assert "env steps  IQM [95 % interval]" in head
    # The middle half of 2, 4, 6, 80 is 4 and 6; 23 is the mean of all, 32.9 their standard deviation.
    assert four.split()[:5] == ["toy/hill", "dreamer", "4", "20", "5.00"]
    assert four.split()[-4:] == ["23.00", "±", "32.94", "2.00"]
    assert one.split()[:7] == ["toy/other", "dreamer", "1", "20", "8.00", "8.00", "8.00"]
    assert one.endswith("  one seed: no interval")


@pytest.mark.usefixtures("runs")
def test_json(capsys):
    assert main(["compare", "--json", "four", "one"]) == 0
    found = json.loads(capsys.readouterr().out)
    four, one = found["rows"]
    assert (four["iqm"], four["mean"], four["min"], four["seeds"]) == (5, 23, 2, 4)
    assert 2 <= four["interval"][0] < 5 < four["interval"][1] <= 80
    assert (one["iqm"], one["interval"], one["std"]) == (8, None, None)
    assert one["runs"] == [{"run_dir": "one", "seed": 0, "step": 20, "score": 8, "failed": False, "trouble": None}]
    assert found["scale"]["toy/hill"] == {"low": 2, "high": 80, "given": False}
    assert found["overall"]["tasks"] == ["toy/hill", "toy/other"]


def test_what_is_odd_is_one_sentence_and_the_rest_goes_on(runs, capsys):
    metrics = runs / "one/metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-5])
    assert main(["compare", "four", "long", "one", "--json"]) == 0
    out, err = capsys.readouterr()
    torn, budgets = err.splitlines()
    assert torn == "mbrl: one/metrics.jsonl is cut short in line 2; the other 1 lines are used"
    assert "budgets of 20 and 30 env steps; scores are taken at 20" in budgets
    found = json.loads(out)
    assert [row["min"] for row in found["rows"]] == [2, 2, 7]
    assert found["rows"][2]["runs"][0]["trouble"] == "ends at 10 of 20 env steps"
    assert found["improvement"][0] == {
        "better": "dreamer", "than": "planner", "tasks": ["toy/hill"], "probability": 0.875, "interval": None
    }


def test_a_page_and_a_scale(runs, capsys):
    (runs / "scale.yaml").write_text("toy/hill: {low: 0, high: 1e2}\n")
    assert main(["compare", "four", "one", "--scale", "scale.yaml", "--html", "page.html"]) == 0
    out, err = capsys.readouterr()
    assert out.endswith("page: page.html\n")
    assert err == "mbrl: the scale says nothing of toy/other; its smallest and largest score are taken as 0 and 1\n"
    page = (runs / "page.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "<td>toy/hill</td><td>0.00</td><td>100.0</td><td>given</td>" in page
    assert sorted(path.name for path in runs.iterdir()) == ["four", "long", "one", "page.html", "scale.yaml"]


def test_folders_that_are_no_runs_are_passed_over(runs, capsys):
    """As `mbrl compare runs/*` meets them, once a sweep or a suite was run."""
    for name in ("reproduce/quick", "sweeps"):
        (runs / name).mkdir(parents=True)
    assert main(["compare", "four", "one", "reproduce", "sweeps", "--html", "page.html"]) == 0
    out, err = capsys.readouterr()
    assert err == "mbrl: passed over, as no config.yaml is there: reproduce, sweeps\n"
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["toy/hill", "toy/other"]
    assert main(["compare", "reproduce", "four", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == ["passed over, as no config.yaml is there: reproduce"]


def test_a_run_that_cannot_be_read_is_passed_over(runs, capsys):
    (runs / "long/config.yaml").write_text("")
    (runs / "one/config.yaml").write_text("{agent: {name: dreamer}}")
    assert main(["compare", "four", "long", "one", "--json"]) == 0
    out, err = capsys.readouterr()
    empty, other = err.splitlines()
    assert empty.startswith("mbrl: passed over: long/config.yaml is empty, but")
    assert other == "mbrl: passed over: one/config.yaml: env.name is missing, but the config of a run has text there"
    assert [row["task"] for row in json.loads(out)["rows"]] == ["toy/hill"]
    assert main(["compare", "long", "one"]) == 2
    assert capsys.readouterr().err.startswith("mbrl: long/config.yaml is empty, but")


def test_steps_and_returns_that_no_run_writes(runs, capsys):
    """A page is made all the same; matplotlib draws nothing near the end of float64."""
    with (runs / "long/metrics.jsonl").open("a") as file:
        file.write('{"step": true, "eval/return_mean": 5}\n{"step": 9223372036854775808, "eval/return_mean": 5}\n')
    for name, value in {"high": 1e308, "low": -1e308, "edge": 3e38, "other edge": -3e38, "whole": 10**400}.items():
        write_run(runs / name, env="toy/far", seed=len(name), scores=[1.0, value])
    names = ["long", "high", "low", "edge", "other edge", "whole"]
    assert main(["compare", *names, "--json", "--html", "page.html"]) == 0
    out, err = capsys.readouterr()
    assert "long/metrics.jsonl cannot be read in line 4, 5; the other 3 lines are used" in err
    long, far = json.loads(out)["rows"]
    assert long["min"] == 3
    assert [one["score"] for one in far["runs"]] == [1, 1, 3e38, -3e38, 1]
    assert [one["trouble"] for one in far["runs"]] == [
        "its latest evaluation is not finite", "its latest evaluation is not finite", None, None,
        "its latest evaluation is not finite",
    ]


WRONG = {
    "no folder": ([], "mbrl compare needs at least one RUN_DIR"),
    "no such folder": (["fuor"], "there is no run folder fuor; did you mean 'four'?"),
    "a folder that is no run": (["."], ". is not the folder of a run: it holds no config.yaml"),
    "folders of which none is a run": ([".", ".."], ". is not the folder of a run: it holds no config.yaml"),
    "a folder that is none": (["four", "one/metrics.jsonl"], "there is no run folder one/metrics.jsonl"),
    "no such folder, beside one that is no run": (["four", ".", "fuor"], "there is no run folder fuor"),
    "a run twice": (["four", "./four"], "run folder ./four is given twice"),
    "an unknown option": (["four", "--htm", "x"], "did you mean '--html'?"),
    "a page without a name": (["four", "--html"], "--html needs a value"),
    "a page that is a folder": (["four", "--html", "one"], "--html is 'one', which is a folder; give a file"),
    "a page in no folder": (["four", "--html", "none/a.html"], "there is no folder none; make it first"),
    "no scale": (["four", "--scale", "none.yaml"], "none.yaml is not a file; a scale is a YAML file"),
    "a folder as scale": (["four", "--scale", "one"], "one is not a file; a scale is a YAML file"),
}


@pytest.mark.parametrize(("argv", "sentence"), WRONG.values(), ids=list(WRONG))
def test_bad_input_is_one_sentence_and_leaves_nothing(argv, sentence, runs, capsys):
    assert main(["compare", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mbrl: ")
    assert err.count("\n") == 1
    assert sentence in err
    assert sorted(path.name for path in runs.iterdir()) == ["four", "long", "one"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("toy/hill: {low: 0}", "toy/hill has low only; it needs both low and high"),
        ("toy/hill: {low: 3, high: 3}", "toy/hill has low 3 and high 3, but low must be lower"),
        ("toy/hill: {low: 3, high: many}", "toy/hill.high is 'many', but must be a number"),
        ("toy/hill: {low: 3, high: .inf}", "toy/hill.high is 'inf', but must be a number"),
        ("toy/hill: 3", "'toy/hill' is not a task's low or high"),
        ("- 3", "a scale is a mapping of settings such as 'brax/hopper: {low: 20, high: 3000}'"),
    ],
)
def test_a_malformed_scale(text, sentence, runs, capsys):
    (runs / "scale.yaml").write_text(text)
    assert main(["compare", "four", "--scale", "scale.yaml"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert sentence in err


def test_runs_without_an_evaluation(runs, capsys):
    write_run(runs / "empty", steps=20)
    assert main(["compare", "empty", "--html", "page.html"]) == 2
    assert "none of the runs was evaluated" in capsys.readouterr().err
    assert not (runs / "page.html").exists()
    assert main(["compare", "empty", "four"]) == 0
    assert main(["compare", "empty", "one"]) == 0
    empty = capsys.readouterr().out.splitlines()[-3]
    assert empty.split()[:7] == ["toy/hill", "dreamer", "0", "-", "-", "-", "-"]
    assert empty.endswith("  no score; 1 of 1 failed")


def test_help_loads_no_physics_and_no_pictures(tmp_path):
    code = "import sys\nfrom mbrl.cli.main import main\nmain(['compare', '--help'])\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "--html" in done.stdout
    assert {"brax", "mujoco", "matplotlib", "orbax", "jax"}.isdisjoint(done.stdout.split())
