"""Ray Tune's searches, as far as they can be told without Ray: whom it connects to, and what its folder says."""

import json
import socket

import pytest

from mbrl.cli import sweeps as reader
from mbrl.core.errors import UserError
from mbrl.runner.muster import free_port
from mbrl.sweeps import tune

POPULATION = """
name: members
about: A population.
experiment: quickstart
settings: {steps: 4096, evaluation: {every: 512}, checkpoint: {every: 512}}
space:
  agent.optim.learning_rate: {log_uniform: [1e-4, 1e-2]}
  replay.batch_size: {int: [4, 16]}
trials: 2
sampler: random
scheduler: {name: pbt, grace: 1024}
"""


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "members.yaml").write_text(POPULATION)
    return reader.read(str(tmp_path / "members.yaml"))


class Machine:
    """A Ray on a machine with one GPU, which remembers what it was told."""

    def __init__(self):
        self.told, self.is_over = {}, False

    def init(self, **told):
        self.told = told

    def cluster_resources(self):
        return {"CPU": self.told["num_cpus"], "GPU": 1.0}

    def shutdown(self):
        self.is_over = True


class FakeRay:
    """A Ray that refuses whoever connects, and counts them."""

    def __init__(self):
        self.asked = 0

    def init(self, **_):
        self.asked += 1
        raise ConnectionError("Failed to connect\nand more")


def test_a_cluster_that_does_not_answer_is_not_waited_for(sweep):
    ray, port = FakeRay(), free_port("127.0.0.1")
    with pytest.raises(UserError, match=rf"^no Ray cluster answers at 127.0.0.1:{port}: .*refused.*--backend local"):
        tune._connect(ray, sweep, f"127.0.0.1:{port}")
    with pytest.raises(UserError, match=r"^no Ray cluster answers at ray://host:port: "):
        tune._connect(ray, sweep, "ray://host:port")
    assert ray.asked == 0


def test_a_cluster_that_refuses_perhaps_asks_for_a_token(sweep):
    ray = FakeRay()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError) as refused:
            tune._connect(ray, sweep, address)
    assert str(refused.value) == (
        f"no Ray cluster answers at {address}: Failed to connect; if it asks for a token, set RAY_AUTH_MODE=token; "
        "`--backend local` does without"
    )
    assert ray.asked == 1


def test_a_machine_has_room_for_the_trials_side_by_side(sweep):
    ray = Machine()
    tune._connect(ray, sweep._replace(parallel=3, ray={"cpu": 4, "gpu": 1.0}), "")
    assert (ray.told["num_cpus"], ray.is_over) == (12, False)


def test_more_gpus_than_there_are_are_not_waited_for(sweep):
    ray = Machine()
    with pytest.raises(UserError, match=r"^ray.gpu of the sweep is 2, but Ray finds 1 GPUs on this machine"):
        tune._connect(ray, sweep._replace(ray={"cpu": 1, "gpu": 2.0}), "")
    assert ray.is_over


def test_ray_hears_of_the_last_evaluation_when_the_run_is_over(sweep, tmp_path):
    pytest.importorskip("ray")
    from mbrl.sweeps.ray_trial import RayTrial

    trial = RayTrial.__new__(RayTrial)  # no actor
    trial._run, trial._sweep = tmp_path, sweep._replace(scheduler="none")
    assert [trial._may_tell(512, None), trial._may_tell(4096, None), trial._may_tell(4096, 0)] == [True, False, True]
    trial._sweep = sweep
    assert not trial._may_tell(512, None)
    (tmp_path / "checkpoints/512").mkdir(parents=True)
    assert [trial._may_tell(512, None), trial._may_tell(4096, None)] == [True, False]


def test_members_of_a_population_stay_within_their_ranges(sweep):
    mutated = {"agent.optim.learning_rate": 0.012, "replay.batch_size": 3.2}
    assert tune.within(sweep.space, mutated) == {"agent.optim.learning_rate": 1e-2, "replay.batch_size": 4}


def test_outcomes_of_ray_are_read_from_the_folder(sweep, tmp_path):
    for name, size in (("a", 4), ("b", 8)):
        (tmp_path / "params").mkdir(exist_ok=True)
        (tmp_path / f"params/{name}.json").write_text(json.dumps({"replay.batch_size": size}))
    run = tmp_path / "trials/b"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 512, "eval/return_mean": 3.5}\n{"step": 1024}\n')
    found = tune.outcomes(sweep, tmp_path, {"a": "failed"})
    assert [(one.number, one.state, one.score, one.steps) for one in found] == [
        (0, "failed", None, 0), (1, "running", 3.5, 512),
    ]


def test_a_member_keeps_its_number_when_its_settings_are_written_anew(sweep, tmp_path):
    (tmp_path / "params").mkdir()
    for name in ("x_00001", "x_00000", "x_00001"):
        (tmp_path / f"params/{name}.json").write_text("{}")
    found = tune.outcomes(sweep, tmp_path, {})
    assert [(one.number, one.run.name) for one in found] == [(0, "x_00000"), (1, "x_00001")]
