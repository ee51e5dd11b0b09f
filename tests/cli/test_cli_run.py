"""The commands on a whole run, with an agent that compiles in a moment."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_agent

import mbrl
from mbrl.cli.main import main
from mbrl.runner import restore

SMALL = f"""{toy_agent.SETTINGS}
env: probe/reward
steps: 64
evaluation: {{every: 32, episodes: 2}}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with an experiment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


def metrics(run_dir):
    """Every number of a run but those of the clock."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def test_train_eval_report_and_run_again(here, capsys):
    assert main(["train", "small.yaml", "--run_dir", "runs/a", "--agent.gain", "2"]) == 0
    assert "report: runs/a/report.html" in capsys.readouterr().out
    names = {path.name for path in (here / "runs/a").iterdir()}
    assert {"config.yaml", "metrics.jsonl", "tensorboard", "checkpoints", "report.html"} <= names
    page = (here / "runs/a/report.html").read_text()

    assert main(["eval", "runs/a", "--episodes", "3", "--seed", "5", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(result) == ["episodes", "return_mean", "return_std", "length_mean"]
    assert result["episodes"] == 3
    assert main(["eval", "runs/a", "--episodes", "3", "--seed=5"]) == 0
    said = capsys.readouterr().out
    assert str(result["return_mean"]) in said
    assert f"length {result['length_mean']} agent steps, over 3 episodes" in said

    (here / "runs/a/report.html").unlink()
    assert main(["report", "runs/a"]) == 0
    assert len((here / "runs/a/report.html").read_text()) == pytest.approx(len(page), rel=0.1)

    # The resolved config runs again as it stands, to the same numbers.
    assert main(["train", "runs/a/config.yaml", "--run_dir", "runs/b", "--report", "false"]) == 0
    assert metrics(here / "runs/b") == metrics(here / "runs/a")
    assert not (here / "runs/b/report.html").exists()
    assert main(["train", "small.yaml", "--run_dir", "runs/b"]) == 2
    assert main(["train", "runs/a"]) == 2
    assert "is finished" in capsys.readouterr().err
    assert main(["train", "runs/a", "--run_dir", "runs/c"]) == 2
    assert main(["train", "runs/a", "--agent.gain", "3", "--steps", "80"]) == 2
    assert "agent.gain = 2.0, not 3.0" in capsys.readouterr().err
    assert main(["train", "runs/a", "--steps", "80"]) == 0
    assert [row["step"] for row in metrics(here / "runs/a")][-1] == 80


@pytest.mark.usefixtures("here")
def test_the_python_door():
    config = mbrl.load_config("small.yaml", {"run_dir": "runs/a", "agent.gain": 0.5})
    run = mbrl.train(config)
    assert int(run.state.step) == 64
    # The toy promises nothing; of ten rewards of 1, k to come are worth (1 - 0.9^k) / 0.1.
    real = sum((1 - 0.9**left) / 0.1 for left in range(1, 11)) / 10
    assert run.metrics["eval/exploitation_gap"] == pytest.approx(-real, rel=1e-5)
    assert float(run.state.agent["w"]) == 0.5 * int(run.state.updates) > 0
    assert mbrl.evaluate(run, episodes=3).returns.shape == (3,)
    again = restore.load("runs/a", mbrl.load_config("runs/a"))
    assert float(again.state.agent["w"]) == float(run.state.agent["w"])


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_run_goes_on_to_the_same_numbers(here, signum, code):
    begin = f"import sys; sys.path.insert(0, {str(Path(toy_agent.__file__).parent)!r}); import toy_agent\n"
    words = ["train", "small.yaml", "--steps", "1000000", "--run_dir", "runs/a", "--checkpoint.every", "1000000"]
    program = f"{begin}from mbrl.cli.main import main; sys.exit(main({words!r}))"
    log = here / "runs/a/metrics.jsonl"
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as run:
        while run.poll() is None and not (log.is_file() and log.read_text().count("\n") > 2):
            time.sleep(0.1)
        run.send_signal(signum)
        _, said = run.communicate(timeout=120)
    assert (run.returncode, said.count("\n")) == (code, 1), said
    assert said.startswith(f"mbrl: stopped by {signum.name} at env step")
    assert said.endswith("go on with: mbrl train runs/a\n")

    stopped = metrics(here / "runs/a")
    end = stopped[-1]["step"] + 64
    assert main(["train", "runs/a", "--steps", str(end)]) == 0
    assert main(["train", "small.yaml", "--run_dir", "runs/b", "--steps", str(end)]) == 0
    assert metrics(here / "runs/a") == metrics(here / "runs/b")
