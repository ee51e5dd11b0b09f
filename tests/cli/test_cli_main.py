import errno

import pytest

from mbrl.cli import listing
from mbrl.cli import main as cli
from mbrl.cli.main import main


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys):
    """What was printed to (stdout, stderr)."""
    return capsys.readouterr()


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(argv, capsys):
    assert main(argv) == 0
    out, err = said(capsys)
    assert err == ""
    assert all(f"mbrl {name}" in out for name in cli.COMMANDS)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train", "--help"], ["--agent.behaviour.horizon", "--env STR", "Imagined steps", "(default: 100000)"]),
        (["train", "--seed", "77", "--help"], ["(default: 77)"]),
        (["train", "quickstart", "-h"], ["(default: nano)", "(default: 12288)"]),
        (["eval", "--help"], ["--episodes INT", "(default: 20)", "RUN_DIR"]),
        (["report", "--help"], ["RUN_DIR"]),
        (["compare", "--help"], ["RUN_DIR", "--html", "--scale"]),
        (["reproduce", "--help"], ["SUITE", "--task", "--budget STR", "--root"]),
        (["list", "--help"], ["envs", "agents", "experiments", "suites"]),
    ],
)
def test_each_command_explains_itself(argv, words, capsys):
    assert main(argv) == 0
    out, err = said(capsys)
    assert err == ""
    assert [word for word in words if word not in out] == []


def test_version(capsys):
    assert main(["--version"]) == 0
    assert said(capsys).out == "mbrl 0.1.0\n"


def test_lists(capsys):
    members = {"envs": "brax/hopper", "agents": "dreamer", "experiments": "quickstart.yaml", "suites": "quick"}
    for kind, member in members.items():
        assert main(["list", kind]) == 0
        assert any(line.endswith(member) for line in said(capsys).out.splitlines())


WRONG = {
    "an unknown command": (["trian"], "unknown command 'trian'; did you mean 'train'?"),
    "an unknown flag": (["--verison"], "did you mean '--version'?"),
    "list of nothing": (["list"], "envs, agents, experiments"),
    "list of the unknown": (["list", "env"], "did you mean 'envs'?"),
    "list of too much": (["list", "envs", "agents"], "one kind at a time"),
    "no experiment": (["train", "quickstrt"], "did you mean 'quickstart'?"),
    "no such file": (["train", "experiments/none.yaml"], "experiments/none.yaml"),
    "a folder that is no run": (["train", "."], "without a config.yaml"),
    "an unknown setting": (["train", "--agent.behaviour.horizn", "3"], "did you mean '--agent.behaviour.horizon'?"),
    "the experiment last": (["train", "--seed", "3", "quickstart"], "cannot place 'quickstart'"),
    "a misspelt environment": (["train", "--env", "brax/hoper"], "did you mean 'brax/hopper'?"),
    "a misspelt backend": (["train", "--env", "brax/hopper@mjxx"], "did you mean 'mjx'?"),
    "a misspelt agent": (["train", "--agent", "dremer"], "did you mean 'dreamer'?"),
    "a wrong type": (["train", "--steps", "many"], "--steps is 'many', but must be a whole number"),
    "no steps": (["train", "--steps", "0"], "steps must be at least 1"),
    "a negative seed": (["train", "--seed", "-1"], "seed must lie between 0"),
    "a size that does not divide": (["train", "--epoch", "1001"], "multiple of num_envs"),
    "a width that does not divide": (["train", "--agent.worldmodel.deter", "127"], "127"),
    "a batch longer than the replay": (["train", "--replay.capacity", "100"], "capacity"),
    "a replay too large": (["train", "--replay.capacity", "1000000000"], "capacity"),
    "no environments": (["train", "--num_envs", "0"], "num_envs"),
    "eval of nothing": (["eval"], "mbrl eval needs RUN_DIR"),
    "eval of two": (["eval", "a", "b"], "no place for 'b'"),
    "eval of no run": (["eval", "runs/none"], "no run folder runs/none"),
    "eval of a folder": (["eval", "."], "config.yaml"),
    "eval of no episodes": (["eval", ".", "--episodes", "0"], "episodes must be at least 1, not 0"),
    "eval with a wrong seed": (["eval", ".", "--seed", "-3"], "seed must lie between 0 and 4294967295, not be -3"),
    "eval with an unknown flag": (["eval", ".", "--episode", "3"], "did you mean '--episodes'?"),
    "report of no run": (["report", "none"], "no run folder none"),
    "report of a name too long": (["report", "x" * 5000], "File name too long"),
}


@pytest.mark.parametrize(("argv", "sentence"), WRONG.values(), ids=list(WRONG))
def test_bad_input_is_one_sentence_and_leaves_nothing(argv, sentence, empty, capsys):
    assert main(argv) == 2
    out, err = said(capsys)
    assert out == ""
    assert err.startswith("mbrl: ")
    assert err.count("\n") == 1
    assert sentence in err
    assert list(empty.iterdir()) == []


def test_a_malformed_file_leaves_nothing_but_itself(empty, capsys):
    malformed = b"seed: [", b"\xff\xfe\x00", b"seed: 1\nseed: 2", b"!!python/object:os.x {}", b"- 1", b"env: brax/hoper"
    for content in malformed:
        (empty / "x.yaml").write_bytes(content)
        assert main(["train", "x.yaml"]) == 2
        assert said(capsys).err.count("\n") == 1
        assert [path.name for path in empty.iterdir()] == ["x.yaml"]


@pytest.mark.parametrize(("error", "sentence"), [
    (OSError(errno.ENOSPC, "No space left on device"), "mbrl: No space left on device\n"),
    (OSError(errno.ENOSPC, "No space left on device", "a/b"), "mbrl: a/b: No space left on device\n"),
])
def test_a_full_disk_is_one_sentence(error, sentence, monkeypatch, capsys):
    def refuse(_):
        raise error

    monkeypatch.setattr(listing, "run", refuse)
    assert main(["list", "envs"]) == 2
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize(("error", "sentence"), [
    (MemoryError("Unable to allocate 74.5 GiB for an array with shape (1, 2)"), "Unable to allocate 74.5 GiB"),
    (RuntimeError("INTERNAL: Error dispatching computation: Out of memory allocating 628 bytes.\nmore"), "INTERNAL"),
    (RuntimeError("RESOURCE_EXHAUSTED: failed to allocate 1.5GiB on device"), "RESOURCE_EXHAUSTED: failed"),
    (MemoryError(), "more was asked for than there is; take smaller numbers"),
])
def test_memory_that_does_not_suffice_is_one_sentence(error, sentence, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr(listing, "run", fail)
    assert main(["list", "envs"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"mbrl: out of memory: {sentence}")
    assert told.count("\n") == 1


def test_another_error_of_a_device_is_no_sentence(monkeypatch):
    def fail(_):
        raise RuntimeError("INTERNAL: something else")

    monkeypatch.setattr(listing, "run", fail)
    with pytest.raises(RuntimeError, match="something else"):
        main(["list", "envs"])


def test_what_no_disk_says_is_no_sentence(monkeypatch):
    def fail(_):
        raise OSError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr(listing, "run", fail)
    with pytest.raises(OSError, match="reset"):
        main(["list", "envs"])


def test_an_existing_folder_is_not_written_into(empty, capsys):
    (empty / "a").mkdir()
    (empty / "a/mine.txt").write_text("mine")
    assert main(["train", "--run_dir", "a"]) == 2
    assert "already exists" in said(capsys).err
    assert [path.name for path in (empty / "a").iterdir()] == ["mine.txt"]
