"""sheeprl's two DreamerV3s, built by sheeprl at DreamerV3's size1m: each as a function that does one train step.

Their ``train`` functions are called as sheeprl's own training loop calls them, the slow critic's step included. Only
the peer's own environment can import this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import hydra
import numpy as np
import torch
from lightning import Fabric
from omegaconf import OmegaConf
from sheeprl.algos.dreamer_v3 import agent as agent_2023
from sheeprl.algos.dreamer_v3 import dreamer_v3
from sheeprl.algos.dreamer_v3.utils import Moments
from sheeprl.algos.dreamer_v3_5 import agent as agent_2025
from sheeprl.algos.dreamer_v3_5 import dreamer_v3_5
from sheeprl.utils.metric import MetricAggregator
from sheeprl.utils.timer import timer
from sheeprl.utils.utils import dotdict
from torch.distributions import Distribution

OBSERVATION, ACTIONS = 24, 6
BATCH, LENGTH, HORIZON = 16, 64, 15
STOCH, CLASSES, DETER = 32, 4, 512
_EPISODE = 37  # steps of an episode in the made-up experience: a few borders in every batch
_SHAPES = {
    "algo.horizon": HORIZON,
    "algo.per_rank_batch_size": BATCH,
    "algo.per_rank_sequence_length": LENGTH,
    "algo.cnn_keys.encoder": "[]",
    "algo.cnn_keys.decoder": "[]",
    "algo.mlp_keys.encoder": "[state]",
    "algo.mlp_keys.decoder": "[state]",
}
# DreamerV3's size1m as far as the algorithm of 2023 can have it: its recurrent cell has no blocks and its prior one
# hidden layer. The one of 2025 has a preset.
_SIZE_2023 = {
    "algo.dense_units": 64,
    "algo.mlp_layers": 3,
    "algo.world_model.stochastic_size": STOCH,
    "algo.world_model.discrete_size": CLASSES,
    "algo.world_model.recurrent_model.recurrent_state_size": DETER,
    "algo.world_model.transition_model.hidden_size": 64,
    "algo.world_model.representation_model.hidden_size": 64,
    "algo.world_model.reward_model.mlp_layers": 1,
    "algo.world_model.discount_model.mlp_layers": 1,
}


class Trained(NamedTuple):
    """One agent, ready to be trained."""

    step: Callable[[], Any]
    parameters: int  # numbers that learn, without the slow copy


def config(experiment: str, options: dict[str, Any]) -> dotdict:
    """Return sheeprl's own configuration of an experiment, with the shapes of this comparison."""
    words = [f"exp={experiment}", "env=dummy", "env.id=continuous_dummy", "metric.log_level=0"]
    words += [f"{name}={value}" for name, value in (options | _SHAPES).items()]
    with hydra.initialize_config_module("sheeprl.configs", version_base="1.3"):
        return dotdict(OmegaConf.to_container(hydra.compose("config", overrides=words), resolve=True))


def experience(length: int) -> dict[str, torch.Tensor]:
    """Return noise in the form of replayed experience, ``[T, B, ...]``, with borders of episodes in it."""
    rng, lead = np.random.default_rng(0), (length, BATCH)
    moment = (np.arange(length)[:, None] + 5 * np.arange(BATCH)[None]) % _EPISODE
    ended = (moment == _EPISODE - 1) & (np.arange(BATCH) % 2 == 0)  # the other episodes are cut off
    arrays = {
        "state": rng.normal(size=(*lead, OBSERVATION)),
        "actions": rng.uniform(-1, 1, size=(*lead, ACTIONS)),
        "rewards": rng.normal(size=(*lead, 1)),
        "terminated": ended[..., None],
        "truncated": ((moment == _EPISODE - 1) & ~ended)[..., None],
        "is_first": (moment == 0)[..., None],
    }
    return {name: torch.as_tensor(np.asarray(value, np.float32)) for name, value in arrays.items()}


def year_2023(compiled: bool) -> Trained:
    """Build ``dreamer_v3``: three optimisers; its actor learns by the gradient through the dynamics."""
    cfg = config("dreamer_v3", _SIZE_2023 | {"algo.compile.enabled": compiled})
    fabric = _fabric(cfg)
    *learned, slow, _ = agent_2023.build_agent(fabric, (ACTIONS,), True, cfg, _space())
    settings = (cfg.algo.world_model.optimizer, cfg.algo.actor.optimizer, cfg.algo.critic.optimizer)
    made = [hydra.utils.instantiate(setting, params=module.parameters(), _convert_="all")
            for setting, module in zip(settings, learned, strict=True)]
    optimisers, moments, batch = fabric.setup_optimizers(*made), _moments(cfg), experience(LENGTH)

    def step() -> None:
        dreamer_v3_5.update_target_critic(learned[2], slow, cfg.algo.critic.tau)
        data = {name: value.clone() for name, value in batch.items()}  # `train` writes into it
        dreamer_v3.train(fabric, *learned, slow, *optimisers, data, None, cfg, True, (ACTIONS,), moments)

    return Trained(step, _size(learned))


def year_2025(compiled: bool) -> Trained:
    """Build ``dreamer_v3_5`` at its preset 1M: blocks in the recurrent cell, LaProp, REINFORCE, replayed latents."""
    cfg = config("dreamer_v3_5", {"algo": "dreamer_v3_5_1M", "algo.compile.enabled": compiled})
    fabric = _fabric(cfg)
    *learned, slow, _ = agent_2025.build_agent(fabric, (ACTIONS,), True, cfg, _space())
    parameters = [p for module in learned for p in module.parameters()]
    optimiser = fabric.setup_optimizers(hydra.utils.instantiate(cfg.algo.optimizer, params=parameters, _convert_="all"))
    length = LENGTH + cfg.algo.replay_context
    latents = {
        "deter": torch.zeros(length, BATCH, DETER, dtype=torch.float16),
        "stoch": torch.zeros(length, BATCH, STOCH, dtype=torch.uint8),
    }
    moments, batch = _moments(cfg), experience(length) | latents

    def step() -> None:
        dreamer_v3_5.train(fabric, cfg, *learned, slow, optimiser, moments, dict(batch), None, (ACTIONS,))
        dreamer_v3_5.update_target_critic(learned[2], slow, cfg.algo.critic.tau)

    return Trained(step, _size(learned))


AGENTS: dict[str, Callable[[bool], Trained]] = {"dreamer_v3": year_2023, "dreamer_v3_5": year_2025}


def _fabric(cfg: dotdict) -> Fabric:
    """Set what sheeprl's command line sets before it trains, without its logs."""
    torch.set_float32_matmul_precision(cfg.float32_matmul_precision)
    Distribution.set_default_validate_args(cfg.distribution.validate_args)
    timer.disabled = MetricAggregator.disabled = True
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.seed_everything(0)
    return fabric


def _space() -> gymnasium.spaces.Dict:
    return gymnasium.spaces.Dict({"state": gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32)})


def _moments(cfg: dotdict) -> Moments:
    moments = cfg.algo.actor.moments
    return Moments(moments.decay, moments.max, moments.percentile.low, moments.percentile.high)


def _size(modules: list[torch.nn.Module]) -> int:
    return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)
