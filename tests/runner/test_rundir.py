"""Run folders: one run, one process, nothing overwritten."""

import datetime
from pathlib import Path

import pytest
import yaml
from toy_run import toy_config

from mbrl.core.errors import UserError
from mbrl.envs.config import EnvConfig
from mbrl.runner import files, rundir


def refuse(path, message):
    with pytest.raises(UserError, match=message), rundir.create(toy_config(run_dir=str(path))):
        pass


def test_default_name():
    config = toy_config(env=EnvConfig(name="brax/inverted_pendulum@mjx"), seed=3)
    now = datetime.datetime(2025, 1, 2, 3, 4, 5)
    expected = Path("runs/brax-inverted_pendulum-mjx-toy-3-20250102-030405")
    assert rundir.default_path(config, now) == expected


def test_default_folder_is_made_under_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with rundir.create(toy_config()) as run:
        assert run.path.parent == Path("runs")
        assert run.config.is_file()


def test_config_is_resolved_and_runs_again(tmp_path):
    config = toy_config(run_dir=str(tmp_path / "a" / "b"))
    with rundir.create(config) as run:
        written = yaml.safe_load(run.config.read_text())
    assert written["run_dir"] == ""
    assert written["agent"]["rate"] == 1e-5
    sizes = {"capacity": 64, "batch_size": 2, "batch_length": 4, "recent_fraction": 0.125}
    assert written["replay"] == sizes | {"frames": "device"}


def test_folder_with_content_is_refused_untouched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    refuse(tmp_path, "already exists with content")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_empty_folder_is_taken(tmp_path):
    with rundir.create(toy_config(run_dir=str(tmp_path))) as run:
        assert run.path == tmp_path


@pytest.mark.parametrize("left", ["nothing", "an empty log", "a line", "a save"])
def test_a_run_that_fails_before_it_has_anything_leaves_no_folder(tmp_path, left):
    def fail(run):
        if left != "nothing":
            run.metrics.write_text("{}\n" if left == "a line" else "")
        if left == "a save":
            run.checkpoints.mkdir()
        raise RuntimeError("out of memory")

    path = tmp_path / "run"
    with pytest.raises(RuntimeError, match="out of memory"), rundir.create(toy_config(run_dir=str(path))) as run:
        fail(run)
    assert path.exists() == (left in {"a line", "a save"})


def test_an_empty_folder_of_ones_own_is_empty_again_after_a_failure(tmp_path):
    def fail(run):
        run.tensorboard.mkdir()
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="memory"), rundir.create(toy_config(run_dir=str(tmp_path))) as run:
        fail(run)
    assert list(tmp_path.iterdir()) == []


def test_file_in_the_way(tmp_path):
    (tmp_path / "run").write_text("")
    refuse(tmp_path / "run", "is a file")
    refuse(tmp_path / "run" / "x", "cannot be made")


def test_second_process_is_refused(tmp_path):
    path = tmp_path / "run"
    with rundir.create(toy_config(run_dir=str(path))) as run:
        run.checkpoints.mkdir()
        with pytest.raises(UserError, match="in use by another process"), rundir.reopen(path):
            pass
    with rundir.reopen(path):  # the lock ended with its holder
        pass


def test_only_a_run_goes_on(tmp_path):
    (tmp_path / "alph").mkdir()
    hint = r"no run folder .*alpa; did you mean '.*alph'"
    with pytest.raises(UserError, match=hint), rundir.reopen(tmp_path / "alpa"):
        pass
    with pytest.raises(UserError, match=r"holds no config\.yaml"), rundir.reopen(tmp_path / "alph"):
        pass


def test_what_was_killed_before_its_first_save_is_cleared_away(tmp_path):
    for name in ("config.yaml", "metrics.jsonl", "checkpoints/.part-000000000008", "tensorboard/events.1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("kept")
    with rundir.reopen(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "config.yaml"]
    (tmp_path / "checkpoints" / "000000000008").mkdir(parents=True)
    with rundir.reopen(tmp_path):
        assert (tmp_path / "checkpoints").is_dir()


def test_what_is_not_the_runs_own_is_left_in_its_folder(tmp_path):
    for name in ("config.yaml", "metrics.jsonl", ".metrics.jsonl.part", "notes.txt", "mine/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("kept")
    with rundir.reopen(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "config.yaml", "mine", "notes.txt"]
    with rundir.take(toy_config(run_dir=str(tmp_path))):
        assert (tmp_path / "mine" / "notes.txt").read_text() == "kept"


@pytest.mark.parametrize("how", ["removed", "unmounted", "emptied"])
def test_a_run_whose_saves_have_gone_is_not_begun_anew(how, tmp_path):
    config = toy_config(run_dir=str(tmp_path / "run"))
    with rundir.create(config) as run:
        run.metrics.write_text('{"step": 8}\n')
        run.checkpoints.mkdir()
        rundir.mark_saved(run)
    if how != "emptied":
        run.checkpoints.rmdir()
    if how == "unmounted":
        (run.path / ".saved").unlink()  # of a run that is older than the mark
        run.checkpoints.symlink_to(tmp_path / "disk")
    left, said = sorted(run.path.iterdir()), "had a save and has none: put its folder checkpoints back, or remove"
    for hold in (rundir.reopen(run.path), rundir.take(config)):
        with pytest.raises(UserError, match=said), hold:
            pass
        assert sorted(run.path.iterdir()) == left
    with rundir.take(config, anew=lambda: True):  # which was asked for
        assert sorted(path.name for path in run.path.iterdir()) == [".lock", "config.yaml"]


def test_notes_in_the_folder_of_a_run_that_fails_at_once_stay_and_do_not_stand_in_its_way(tmp_path):
    def fail(run):
        (run.path / "notes.txt").write_text("kept")
        raise RuntimeError("out of memory")

    config = toy_config(run_dir=str(tmp_path / "run"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="memory"), rundir.take(config) as run:
            fail(run)
        assert (tmp_path / "run" / "notes.txt").read_text() == "kept"


def test_atomic_write_leaves_the_old_content_on_failure(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomic(path, b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*file'"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
