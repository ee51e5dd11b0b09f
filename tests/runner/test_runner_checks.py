"""Bad numbers are refused in one sentence before anything is built."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
import yaml
from toy_run import ToyConfig, toy_config, toy_program

from mbrl.agents.mbpo import MBPOConfig
from mbrl.core.errors import UserError
from mbrl.envs.config import EnvConfig
from mbrl.replay import memory
from mbrl.replay.config import ReplayConfig
from mbrl.runner import config as runner_config
from mbrl.runner.checks import check, check_evaluation, check_memory, check_same
from mbrl.runner.config import CheckpointConfig, Config, EvalConfig, to_yaml


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"steps": 3_000_000_000}, "steps must be at most 2000000000"),
        ({"num_envs": 8 * 10**9}, "num_envs must be at most 2000000000, not 8000000000"),
        ({"prefill": 10**12}, "prefill must be at most 2000000000"),
        ({"epoch": 10**12}, "epoch must be at most 2000000000"),
        ({"epoch": 2 * 10**8}, r"epoch 200000000 .* are 200000000 env steps, of which an epoch may have 100000000"),
        ({"env": EnvConfig(time_limit=3 * 10**9)}, r"env\.time_limit must be at most 2000000000"),
        ({"episode_limit": 0}, r"episode_limit must lie between 1 and env\.time_limit, 1000, not be 0"),
        ({"episode_limit": 1001}, r"episode_limit must lie between 1 and env\.time_limit, 1000, not be 1001"),
        ({"env": EnvConfig(action_repeat=10**8)}, "num_envs 2 with env.action_repeat 100000000 are 200000000 env"),
        ({"evaluation": EvalConfig(episodes=10**10)}, r"evaluation\.episodes must be at most 1000000, not 10000000000"),
        ({"agent": ToyConfig(rate=float("inf"))}, r"agent\.rate must be a finite number, not inf"),
        ({"train_ratio": 1e-12}, "train_ratio 1e-12 is less than one update in 1073741824 vector steps"),
        ({"train_ratio": 1e30}, r"train_ratio 1e\+30 is more than 2000000000 updates in 64 env steps"),
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"epoch": 9}, "epoch 9 must be a multiple of num_envs 2; the nearest is 8"),
        ({"epoch": 1}, "the nearest is 2"),
        ({"prefill": 7}, "prefill 7 is too short .* it needs at least 8"),
        ({"seed": -1}, "seed must lie between 0 and 4294967295, not be -1"),
        ({"train_ratio": float("nan")}, "train_ratio must be a finite number, not nan"),
        ({"train_ratio": 0.0}, "train_ratio must be positive"),
        ({"fsdp": True, "seeds": 4}, "fsdp splits one seed's model over the devices, and 4 seeds are split over them"),
        ({"max_faults": -1}, "max_faults must be at least 0"),
        ({"env": EnvConfig(action_repeat=0)}, r"env\.action_repeat must be at least 1"),
        ({"evaluation": EvalConfig(every=0)}, r"evaluation\.every must be at least 1"),
        ({"checkpoint": CheckpointConfig(keep=0)}, r"checkpoint\.keep must be at least 1"),
        ({"replay": ReplayConfig(capacity=8, batch_length=64)}, r"replay\.batch_length 64 needs 65 steps"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        check(toy_config(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("episodes", "seed", "message"),
    [(0, 0, "episodes must be at least 1, not 0"),
     (10**10, 0, "episodes must be at most 1000000, not 10000000000"),
     (1, -1, "seed must lie between 0 and 4294967295, not be -1")],
)
def test_an_evaluation_that_cannot_be_is_refused(episodes, seed, message):
    with pytest.raises(UserError, match=message):
        check_evaluation(episodes, seed)


def test_accepted():
    check(toy_config())


def test_memory(monkeypatch):
    state = jax.eval_shape(toy_program().init, jax.random.key(0))
    ring = type("Ring", (), {"data": jnp.zeros((32, 2, 16))})
    monkeypatch.setattr(memory, "available_bytes", lambda: 100_000)
    assert "64 steps in 4.0 KiB" in check_memory(toy_config(), state._replace(replay=ring))
    with monkeypatch.context() as little:
        little.setattr(memory, "host_bytes", lambda _: 10_000)
        with pytest.raises(UserError, match=r"64 needs 12\.0 KiB of main memory while it is saved.* 52 would fit"):
            check_memory(toy_config(), state._replace(replay=ring))
    monkeypatch.setattr(memory, "available_bytes", lambda: 4_000)
    with pytest.raises(UserError, match=r"replay\.capacity 64 needs 4\.0 KiB.* replay\.capacity 50 would fit"):
        check_memory(toy_config(), state._replace(replay=ring))


def test_same_config(monkeypatch):
    saved = to_yaml(toy_config())
    check_same(saved, toy_config(steps=128, run_dir="elsewhere", evaluation=EvalConfig(every=8), max_faults=7))
    with pytest.raises(UserError, match=r"agent\.rate = 1e-05, not 0\.1"):
        check_same(saved, toy_config(agent=ToyConfig(rate=0.1)))

    @dataclasses.dataclass(frozen=True)
    class Wider(ToyConfig):
        depth: int = 3

    with pytest.raises(UserError, match=r"agent\.depth = None, not 3"):
        check_same(saved, toy_config(agent=Wider()))
    # What was saved before there was a setting goes on where the setting leaves everything as it was.
    monkeypatch.setattr(runner_config, "came_later", lambda agent, _: {"agent.depth": 3} if agent == "toy" else {})
    check_same(saved, toy_config(agent=Wider()))
    with pytest.raises(UserError, match=r"agent\.depth = 3, not 4"):
        check_same(saved, toy_config(agent=Wider(depth=4)))


def test_a_run_saved_before_there_was_a_setting_goes_on():
    config = Config(agent=MBPOConfig(), env=EnvConfig(time_limit=99))
    saved = yaml.safe_load(to_yaml(config))
    del saved["agent"]["behaviour"]["whiten"], saved["agent"]["worldmodel"]["discount_of"]
    check_same(yaml.safe_dump(saved), config)
    whitening = dataclasses.replace(config.agent.behaviour, whiten=True)
    with pytest.raises(UserError, match=r"agent\.behaviour\.whiten = False, not True"):
        check_same(yaml.safe_dump(saved), Config(agent=MBPOConfig(behaviour=whitening), env=config.env))


def test_a_saved_config_that_is_none():
    odd = "a: [1", "[1, 2]", "a: &x 1\nb: *x", "a: !!python/object:os.system 1", "", "[" * 5000, "a: " + "x" * 10**6
    for text in odd:
        with pytest.raises(UserError, match=r"^the checkpoint's config\.yaml"):
            check_same(text, toy_config())
