"""The comparison with peers as a command; nothing is installed or measured, only small scripts of the tests run."""

import json
import sys
import textwrap
from pathlib import Path

import pytest
from script_modules import load

bench = load("bench")
STEP = {"ms": 500.0, "gflop": 32.0, "parameters": 7, "threads": 1}
OURS = {
    "mbrl_step.py": {"dynamics": STEP, "reinforce": STEP, "versions": {"jax": "1"}},
    "mbrl_learning.py": {"evaluations": [[1, 10.0, 3.0], [2, 960.0, 4.0]], "cut_off": False, "versions": {}},
}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sheprl"], "unknown peer 'sheprl'; there are sheeprl, brax-sac, brax-ppo, sheeprl-compiled"),
        (["--rounds", "0"], "--rounds takes a whole number of at least 1, not '0'"),
        (["brax-sac", "--rounds", "two"], "--rounds takes a whole number of at least 1, not 'two'"),
        (["--rounds", "-1"], "--rounds takes a whole number of at least 1, not '-1'"),
        (["--rounds"], "--rounds takes a whole number of at least 1, not ''"),
        (["--json"], "--json takes a file in a folder that exists, not '.'"),
        (["--round", "2"], "unknown option '--round'; there are --rounds N, --json FILE and --help"),
        (["--json", "/nowhere/at/all.json"], "--json takes a file in a folder that exists, not '/nowhere/at/all.json'"),
    ],
)
def test_wrong_words_are_told_in_one_sentence_before_anything_is_installed(words, sentence, capsys):
    with pytest.raises(SystemExit) as left:
        bench.main(words)
    assert left.value.code == 2
    assert capsys.readouterr().err == f"bench_peers.sh: {sentence}\n"


def run(monkeypatch, words, theirs, absent=()):
    """The exit code of the command where the scripts print what is given."""
    def peer(name, _environment):
        if name in absent:
            raise bench.environments.Unavailable("no wheel fits")
        return Path(name)

    found = lambda python, words, _seconds: (OURS if python == Path("own") else theirs)[words[0]]
    monkeypatch.setattr(bench.environments, "own", lambda: Path("own"))
    monkeypatch.setattr(bench.environments, "peer", peer)
    monkeypatch.setattr(bench.measuring, "run", found)
    monkeypatch.setattr(bench.signal, "signal", lambda *_: None)
    return bench.main(words)


def test_rounds_ratios_and_json(monkeypatch, capsys, tmp_path):
    slower = {"dreamer_v3_5": STEP | {"ms": 750.0}, "dreamer_v3": {"error": "it broke"}, "versions": {"torch": "2"}}
    file = tmp_path / "peers.json"
    assert run(monkeypatch, ["sheeprl", "--rounds", "2", "--json", str(file)], {"sheeprl_step.py": slower}) == 0
    out, err = capsys.readouterr()
    note = "parameters 7 and 7; matrix products 32.0 and 32.0 GFLOP; PyTorch's threads: 1"
    assert f"| 500 | 750 | 1.50 | 1.50 to 1.50 | 2 of 2 | {note} |" in out
    assert "| 500 | - | - | - | 0 of 2 | theirs: failed: it broke |" in out
    assert "- sheeprl: torch 2" in out
    assert err.count("dreamer_v3, sheeprl: failed: it broke") == 2
    report = json.loads(file.read_text())
    assert [row["ratio"] for row in report["rows"]] == [1.5, None]
    assert len(report["rounds"]) == 2
    assert "cores" in report["machine"]


def test_a_peer_that_cannot_be_installed_is_told_and_marked_and_the_rest_goes_on(monkeypatch, capsys):
    late = {"evaluations": [[1, 10.0, 3.0], [2, 20.0, 4.0]], "cut_off": False}
    words = ["brax-sac", "brax-ppo", "--rounds", "1"]
    assert run(monkeypatch, words, {"brax_agent.py": late}, absent={"brax-ppo"}) == 0
    out, err = capsys.readouterr()
    assert "bench_peers.sh: brax-ppo is left out: no wheel fits\n" in err
    assert out.count("| theirs: failed: no wheel fits |") == 3
    assert "| brax-sac | env steps to 950 | 2.00 | - | - | - | 0 of 1 | theirs: not within 60,000 steps |" in out


def test_a_peer_that_fails_is_not_run_again_and_ours_that_fails_is_the_exit_code(monkeypatch, capsys):
    broken = {"error": "exit code 3: it broke"}
    assert run(monkeypatch, ["brax-sac", "--rounds", "3"], {"brax_agent.py": broken}) == 0
    out, err = capsys.readouterr()
    assert err.count("brax-sac: failed: exit code 3: it broke") == 1
    assert "0 of 1 | theirs: failed: exit code 3: it broke |" in out
    monkeypatch.setitem(OURS, "mbrl_learning.py", broken)
    assert run(monkeypatch, ["brax-sac"], {"brax_agent.py": broken}) == 1


def test_a_run_that_was_cut_off_says_after_what():
    found = bench.lesson({"evaluations": [[0, 1.0, 2.0], [300, 5.0, 1300.0]], "cut_off": True}, 60_000)
    assert found.steps.why == "not within 300 steps, cut off after 1200 s"


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("print('noise')\nprint('{\"ms\": 3}')", {"ms": 3}),
        ("import sys\nsys.exit('it broke')", {"error": "exit code 1: it broke"}),
        ("print('noise')", {"error": "it printed no result"}),
        ("import time\ntime.sleep(60)", {"error": "not done after 1 s"}),
    ],
)
def test_a_measurement_ends_in_a_result_or_a_reason(code, result, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    assert bench.measuring.run(Path(sys.executable), [str(script)], 1.0 if "sleep" in code else 60.0) == result
