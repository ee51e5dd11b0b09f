"""What `mbrl train` makes of the words that spread a run over hosts."""

import json

import pytest

from mbrl.cli import config, train
from mbrl.cli.main import main
from mbrl.core.errors import UserError
from mbrl.runner.config import to_dict
from mbrl.runner.launch import Launch
from mbrl.runner.muster import free_port


def test_the_launch_is_taken_out_of_the_words():
    words = ["runs/a", "--steps", "5", "--process-id=1", "--num_processes", "2", "--seed", "3", "--distributed", "h:7"]
    assert train.split_launch(words) == (Launch("h:7", 2, 1), ["runs/a", "--steps", "5", "--seed", "3"])
    assert train.split_launch(["--help"]) == (Launch(), ["--help"])
    assert train.split_launch(["x", "--distributed", "auto", "--stall_limit", "60"]) == (
        Launch("auto", stall_limit=60.0), ["x"],
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--distributed"], "--distributed needs a value"),
        (["--distributed", "--seed", "1"], "--distributed needs a value"),
        (["--distributed", "here", "--process_id", "1"], "'here', but must be auto or HOST:PORT"),
        (["--distributed", "h:7", "--process_id", "one"], "--process_id is 'one', but must be a whole number"),
        (["--stall_limit", "60"], "--stall_limit goes with --distributed, which is not given"),
    ],
)
def test_words_that_are_not_right(words, said):
    with pytest.raises(UserError) as refused:
        train.split_launch(words)
    assert said in str(refused.value)


def test_help_has_both_the_experiment_and_the_launch(capsys):
    assert main(["train", "--distributed", "h:7", "--num_processes", "2", "--process_id", "1", "--help"]) == 0
    page = capsys.readouterr().out
    assert "--train_ratio" in page
    assert "--join_limit" in page


def test_an_address_that_does_not_answer_is_one_sentence(capsys):
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    words = ["--distributed", address, "--num_processes", "2", "--process_id", "1", "--join_limit", "0.3"]
    assert main(["train", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"mbrl: nothing answered at {address} for 0.3 s")
    assert said.count("\n") == 1


def test_a_wrong_experiment_is_refused_before_anybody_is_waited_for(capsys):
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    words = ["nowhere.yaml", "--distributed", address, "--num_processes", "2", "--process_id", "0"]
    assert main(["train", *words]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


def test_process_0_says_what_is_trained():
    told = train._told(["quickstart", "--seed", "3"])
    there = config.load(None, json.loads(json.dumps(told["config"])))
    assert to_dict(there) == told["config"]
    assert (told["config"]["seed"], told["config"]["devices"], told["resume"]) == (3, "all", None)
    assert told["config"]["run_dir"].startswith("runs/")
    assert train._told(["quickstart", "--devices", "4"])["config"]["devices"] == 4
