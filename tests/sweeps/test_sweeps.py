"""Sweeps: what their reader refuses, and a search whose trials only pretend to train."""

import json
import re
import sys
import threading
import time

import pytest
import yaml

from mbrl.cli import sweeps as reader
from mbrl.cli import trial as trial_module
from mbrl.cli.config import load
from mbrl.cli.main import main
from mbrl.core.errors import UserError
from mbrl.runner import fork, rundir
from mbrl.runner.config import to_yaml
from mbrl.sweeps import folder as folders
from mbrl.sweeps import report, study, trial
from mbrl.sweeps.spec import Outcome, Range, ranked, words

pytest.importorskip("optuna")

SMALL = """
name: small
about: A small one.
experiment: quickstart
settings: {steps: 4096, evaluation: {every: 512}}
space:
  agent.optim.learning_rate: {log_uniform: [1e-4, 1e-2]}
  replay.batch_size: {int: [4, 16]}
trials: 6
parallel: 2
sampler: random
scheduler: {name: asha, grace: 1024, reduction: 2}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "_POLL", 0.001)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


@pytest.fixture
def sweep(here):
    return reader.read(str(here / "small.yaml"))


def test_every_sweep_of_the_checkout_can_be_read():
    assert {"dreamer_lr", "probe_lr"} <= set(reader.names())
    for name in reader.names():
        assert reader.read(name).space


def test_a_list_among_the_settings_is_read_and_said_to_each_trial(here):
    (here / "lists.yaml").write_text(
        "name: lists\nabout: A list.\nexperiment: pixels/dreamer_cartpole\n"
        "settings: {agent.worldmodel.images.multiples: [1, 2, 3, 4]}\nspace: {seed: {choice: [0, 1]}}\n"
    )
    said = words(reader.read(str(here / "lists.yaml")), {"seed": 1})
    assert said == ["--agent.worldmodel.images.multiples", "1", "2", "3", "4", "--seed=1"]
    assert load("pixels/dreamer_cartpole", said).agent.worldmodel.images.multiples == (1, 2, 3, 4)


def test_what_is_read(sweep):
    assert sweep.settings == {"steps": 4096, "evaluation.every": 512}
    assert sweep.space["agent.optim.learning_rate"] == Range("log_uniform", (1e-4, 1e-2))
    assert (sweep.scheduler, sweep.grace, sweep.reduction, sweep.steps) == ("asha", 1024, 2, 4096)
    said = words(sweep, {"agent.optim.learning_rate": 1e-3, "replay.batch_size": 4})
    assert said == ["--steps=4096", "--evaluation.every=512", "--agent.optim.learning_rate=0.001",
                    "--replay.batch_size=4"]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("name: small", "name: other", "a sweep is called as its file: 'small'"),
        ("experiment: quickstart", "experiment: quikstart", "did you mean"),
        ("learning_rate: {log", "lerning_rate: {log", "did you mean .*learning_rate"),
        ("log_uniform: [1e-4, 1e-2]", "log_uniform: [0, 1e-2]", "must be above 0"),
        ("log_uniform: [1e-4, 1e-2]", "log_uniform: [1e-2, 1e-4]", "must be the lowest below the highest"),
        ("log_uniform: [1e-4, 1e-2]", "log_uniform: [1e-4]", "has 1 values"),
        ("log_uniform: [1e-4, 1e-2]", "normal: [0, 1]", "must be one of uniform, log_uniform, int, choice"),
        ("int: [4, 16]", "int: [4.5, 16]", "must be whole numbers"),
        ("int: [4, 16]", "uniform: [4, 16]", "replay.batch_size is '4.0', but must be a whole number"),
        ("int: [4, 16]", "choice: [4, [5]]", "must hold numbers or text"),
        ("int: [4, 16]", "int: [0, 16]", "batch_size"),
        ("  replay.batch_size", "  steps", "space holds steps"),
        ("sampler: random", "sampler: bayes", "must be one of tpe, random, grid"),
        ("sampler: random", "sampler: grid", "a grid needs choices"),
        ("trials: 6", "trials: 0", "must be a whole number of at least 1"),
        ("grace: 1024", "grace: 8192", "must lie between evaluation.every"),
        ("name: asha", "name: pbt", "checkpoint.every must equal evaluation.every"),
        ("parallel: 2", "paralel: 2", "unknown key 'paralel'"),
        ("parallel: 2", "ray: {gpus: 1}", "ray: unknown key 'gpus'; did you mean 'gpu'"),
        ("parallel: 2", "ray: {cpu: 0.5}", "ray.cpu is '0.5', but must be a whole number of at least 1"),
        ("parallel: 2", "ray: {gpu: 1.5}", "ray.gpu is 1.5, but must be a whole number, or a part of one GPU"),
        ("parallel: 2", "ray: {gpu: -1}", "ray.gpu is -1, but must be a whole number"),
        ("parallel: 2", "ray: 4", "ray is '4', but must be a mapping"),
    ],
)
def test_what_is_refused(here, old, new, sentence):
    (here / "small.yaml").write_text(SMALL.replace(old, new))
    with pytest.raises(UserError, match=sentence):
        reader.read("small.yaml")


class Pretend:
    """Trials that score their batch size, better by an evaluation each time they are looked at."""

    def __init__(self, fail=lambda _: False):
        self.fail, self.commands, self.jobs, self.stopped = fail, [], [], []

    def launch(self, command, log):
        self.commands.append(command)
        self.jobs.append(PretendJob(self, command, log))
        return self.jobs[-1]


class PretendJob:
    def __init__(self, world, command, log):
        self.world, self.log = world, log
        self.run = trial.Path(command[3])
        self.size = int(re.search(r"batch_size=(\d+)", " ".join(command))[1])
        self.run.mkdir(parents=True, exist_ok=True)
        self.steps = max((one.steps for one in trial.readings(self.run, "eval/return_mean")), default=0)
        self.over = None

    def poll(self):
        if self.over is None and self.world.fail(self.size):
            self.log.parent.mkdir(exist_ok=True)
            self.log.write_text("something before\nmbrl: out of memory\n")
            self.over = 1
        elif self.over is None and self.steps < 4096:
            self.steps += 512
            with (self.run / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.steps, "eval/return_mean": self.size * self.steps}) + "\n")
        elif self.over is None:
            self.over = 0
        return self.over

    def stop(self):
        self.world.stopped.append(self.size)
        self.over = 143


def search(sweep, folder, world, show=lambda _: None, stopping=()):
    folder.mkdir(exist_ok=True)
    return study.search(sweep, folder, world, show, stopping)


def test_poor_trials_are_given_up_and_good_ones_are_not(sweep, here):
    world = Pretend()
    found = search(sweep, here / "s", world)
    assert [one.number for one in found] == list(range(6))
    best, *_, worst = ranked(found, "max")
    assert (best.state, best.steps) == ("done", 4096)
    assert worst.state == "stopped"
    assert worst.steps < 4096
    assert best.score == best.params["replay.batch_size"] * 4096
    assert world.stopped
    assert best.params["replay.batch_size"] not in world.stopped
    assert all(1e-4 <= one.params["agent.optim.learning_rate"] <= 1e-2 for one in found)


def test_a_search_that_was_cut_off_goes_on_with_its_runs(sweep, here):
    whole = search(sweep._replace(scheduler="none"), here / "whole", Pretend())
    calls = []

    def cut(_):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt

    part = sweep._replace(scheduler="none")
    with pytest.raises(KeyboardInterrupt):
        search(part, here / "s", Pretend(), cut)
    before = {path.name: len(trial.readings(path, "eval/return_mean")) for path in (here / "s/trials").iterdir()}
    assert 0 < min(before.values()) < 8
    world = Pretend()
    found = search(part, here / "s", world)
    assert len(found) == len(whole) == 6
    assert all(one.state == "done" for one in found)
    for name, count in before.items():
        run = here / "s/trials" / name
        assert [one.steps for one in trial.readings(run, "eval/return_mean")] == list(range(512, 4097, 512)), count
    # The two that ran go on in their folders, and the search asks for four more.
    assert sorted(trial.Path(command[3]).name for command in world.commands)[:2] == sorted(before)
    assert len(world.commands) == 6


def test_a_search_that_goes_on_draws_other_settings(sweep, here):
    part = sweep._replace(scheduler="none")
    search(part._replace(trials=3), here / "s", Pretend())
    found = search(part, here / "s", Pretend())
    assert len({tuple(one.params.values()) for one in found}) == 6


def test_a_trial_that_somebody_stopped_is_begun_again(sweep, here):
    world = Pretend()

    def stop_the_first(outcomes):
        if world.commands and not world.stopped and outcomes[0].steps >= 1024:
            world.jobs[0].stop()

    found = search(sweep._replace(scheduler="none"), here / "s", world, stop_the_first)
    assert len(found) == 6
    assert all(one.state == "done" for one in found)
    assert len(world.stopped) == 1
    assert len(world.commands) == 7


def test_a_trial_that_is_always_stopped_is_given_up(sweep, here):
    class Stuck(PretendJob):
        def poll(self):
            return 143

    class World(Pretend):
        def launch(self, command, log):
            self.commands.append(command)
            return Stuck(self, command, log)

    world = World()
    found = search(sweep._replace(scheduler="none", trials=1), here / "s", world)
    assert [one.state for one in found] == ["failed"]
    assert found[0].trouble == "exit code 143: stopped 4 times without a new evaluation; it said nothing"
    assert len(world.commands) == 4


def test_a_journal_that_was_cut_short_is_read(sweep, here):
    part = sweep._replace(scheduler="none", trials=2)
    search(part, here / "s", Pretend())
    with (here / "s/study.jsonl").open("a") as file:
        file.write('{"op_code": 4, "worker')
    assert len(search(part._replace(trials=3), here / "s", Pretend())) == 3


def test_what_a_trial_of_rays_takes(here, sweep):
    assert sweep.ray == {"cpu": 1, "gpu": 0}
    (here / "small.yaml").write_text(SMALL + "ray: {gpu: 0.5}\n")
    assert reader.read("small.yaml").ray == {"cpu": 1, "gpu": 0.5}


def test_a_search_that_could_not_begin_stands_in_nobodys_way(sweep, here):
    with pytest.raises(UserError, match="no Ray"), folders.hold(here / "s", sweep, "ray"):
        raise UserError("no Ray here")
    assert not (here / "s").exists()
    with folders.hold(here / "s", sweep, "local"):
        pass


def test_a_trial_waits_for_one_that_outlived_its_sweep(here, monkeypatch):
    said = []
    monkeypatch.setattr(trial_module, "mbrl", lambda argv: said.append(argv) or 0)
    monkeypatch.setattr(trial_module, "_POLL", 0.01)
    (here / "run").mkdir()
    (here / "run/config.yaml").touch()
    thread = threading.Thread(target=trial_module.main, args=(["run", "quickstart"],))
    with rundir.hold(here / "run"):
        thread.start()
        time.sleep(0.1)
        assert not said
    thread.join()
    assert said == [["train", "run"]]


def test_a_signal_ends_the_search_and_stops_its_trials(sweep, here):
    stopping = []
    world = Pretend()
    found = search(sweep, here / "s", world, lambda _: stopping.append(15), stopping)
    assert [one.state for one in found] == ["running", "running"]
    assert len(world.stopped) == 2


def test_failures_are_told(sweep, here):
    found = search(sweep._replace(scheduler="none"), here / "s", Pretend(fail=lambda size: size % 2 == 0))
    failed = [one for one in found if one.state == "failed"]
    assert failed
    assert all(one.params["replay.batch_size"] % 2 == 0 for one in failed)
    assert failed[0].trouble == "exit code 1: mbrl: out of memory"


def test_a_grid_is_tried_whole(here):
    changes = {
        "{log_uniform: [1e-4, 1e-2]}": "{choice: [1e-3, 2e-3]}", "{int: [4, 16]}": "{choice: [4, 8, 16]}",
        "sampler: random": "sampler: grid", "name: asha": "name: none",
    }
    text = SMALL
    for old, new in changes.items():
        text = text.replace(old, new)
    (here / "small.yaml").write_text(text)
    sweep = reader.read("small.yaml")
    assert sweep.trials == 6
    found = search(sweep, here / "s", Pretend())
    assert sorted(one.params["replay.batch_size"] for one in found) == [4, 4, 8, 8, 16, 16]
    assert len({tuple(one.params.values()) for one in found}) == 6


def test_populations_need_ray(sweep, here):
    with pytest.raises(UserError, match="needs --backend ray"):
        search(sweep._replace(scheduler="pbt"), here / "s", Pretend())


def test_a_folder_is_that_of_one_sweep(sweep, here):
    again = folders.hold(here / "s", sweep, "local")
    with folders.hold(here / "s", sweep, "local"), pytest.raises(UserError, match="in use by another process"), again:
        pass
    with folders.hold(here / "s", sweep._replace(trials=9), "local"):
        pass
    for other, backend, key in ((sweep._replace(seed=1), "local", "seed"), (sweep, "ray", "backend")):
        with pytest.raises(UserError, match=f"another {key}"), folders.hold(here / "s", other, backend):
            pass
    (here / "t").mkdir()
    (here / "t/precious").touch()
    with pytest.raises(UserError, match="is none"), folders.hold(here / "t", sweep, "local"):
        pass
    assert [path.name for path in (here / "t").iterdir()] == ["precious"]


def test_ray_goes_on_with_as_many_trials_as_it_was_begun_with(sweep, here):
    with folders.hold(here / "s", sweep, "ray"):
        pass
    with folders.hold(here / "s", sweep._replace(about="Another.", ray={"cpu": 2, "gpu": 1}), "ray"):
        pass
    for key, was in (("trials", 6), ("parallel", 2)):
        other = folders.hold(here / "s", sweep._replace(**{key: 9}), "ray")
        with pytest.raises(UserError, match=f"with {key} {was}, not 9, and Ray .*: take --{key} {was}, or"), other:
            pass
    with folders.hold(here / "s", sweep, "ray"):
        pass


def test_processes_and_what_they_say(here):
    processes, log = trial.Processes(), here / "logs/a.log"
    job = processes.launch([sys.executable, "-c", "print('one'); print('two')"], log)
    while job.poll() is None:
        time.sleep(0.01)
    assert (job.poll(), trial.trouble(log)) == (0, "two")
    job = processes.launch([sys.executable, "-c", "import time; time.sleep(60)"], log)
    assert job.poll() is None
    job.stop()
    while job.poll() is None:
        time.sleep(0.01)
    assert job.poll() == -15
    assert trial.trouble(here / "none") == "it said nothing"


def test_a_trial_begins_a_run_or_goes_on_with_it(here, monkeypatch):
    said = []
    monkeypatch.setattr(trial_module, "mbrl", lambda argv: said.append(argv) or 0)
    assert trial_module.main(["run", "quickstart", "--seed=1"]) == 0
    (here / "run").mkdir()
    (here / "run/config.yaml").touch()
    assert trial_module.main(["run", "quickstart", "--seed=1"]) == 0
    assert said == [["train", "quickstart", "--seed=1", "--run_dir", "run"], ["train", "run"]]


def test_a_member_that_takes_over_a_save_keeps_what_its_run_began_with(here, monkeypatch):
    forked = []
    monkeypatch.setattr(trial_module, "mbrl", lambda _: 0)
    monkeypatch.setattr(fork, "fork", lambda save, _, config: forked.append((save.name, config)))
    written = yaml.safe_load(to_yaml(load(overrides={"agent": "mbpo", "seed": 1, "agent.optim.agc": 0.3})))
    del written["agent"]["worldmodel"]["beta"]  # it was begun before there was such a setting
    for part in (trial.ADOPTED, "checkpoints"):
        (here / "run" / part / "000000000010").mkdir(parents=True)
    (here / "run/config.yaml").write_text(yaml.safe_dump(written))
    assert trial_module.main(["run", "dmc/mbpo_cartpole_balance", "--agent.optim.learning_rate=0.5"]) == 0
    ((save, config),) = forked
    assert save == "000000000010"
    optim = config.agent.optim
    assert (optim.learning_rate, optim.agc, config.seed, config.agent.worldmodel.beta) == (0.5, 0.3, 1, 0.0)


def test_page(sweep, here):
    found = search(sweep, here / "s", Pretend())
    broken = Outcome(6, {"replay.batch_size": 5}, here / "none", "failed", None, 0, "exit code 1: <b>")
    page = report.page(sweep, [*found, broken])
    assert "7 of 6" in page
    assert "exit code 1: &lt;b&gt;" in page
    assert page.count("<img") == 2
    assert report.page(sweep, [broken]).count("<img") == 0


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["smal.yaml"], "unknown sweep"),
        (["small.yaml", "--trials", "0"], "--trials must be at least 1"),
        (["small.yaml", "--backend", "local", "--address", "auto"], "leave it out"),
        (["small.yaml", "--backend", "dask"], "must be one of ray, local, slurm"),
    ],
)
def test_bad_words_leave_nothing(here, capsys, argv, sentence):
    assert main(["sweep", *argv]) == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize(("backend", "missing"), [("ray", "ray"), ("local", "optuna"), ("slurm", "submitit")])
def test_what_is_not_installed_leaves_nothing(here, capsys, monkeypatch, backend, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["sweep", "small.yaml", "--backend", backend]) == 2
    assert "pip install 'mbrl[" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["small.yaml"]


def test_command(here, capsys, monkeypatch):
    world = Pretend()
    monkeypatch.setattr(trial, "Processes", lambda: world)
    assert main(["sweep", "small.yaml", "--backend", "local", "--trials", "3", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert (here / "runs/sweeps/small/report.html").is_file()
    # A finished sweep says what it found and runs nothing again; more trials go on with it.
    assert main(["sweep", "small.yaml", "--backend", "local", "--trials", "3"]) == 0
    assert len(world.commands) == 3
    assert main(["sweep", "small.yaml", "--backend", "local", "--trials", "4"]) == 0
    assert len(world.commands) == 4
    assert "agent.optim.learning_rate" in capsys.readouterr().out
