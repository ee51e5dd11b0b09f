"""Agents: thin compositions of a world model and what acts in it, and guests that bring their own training loop."""

from mbrl.agents import brax, dreamer, mbpo, muzero, pets, tdmpc2
from mbrl.agents.base import Agent, AgentEntry, Guest, GuestEntry, Player
from mbrl.planners import PLANNERS, NoPlannerConfig
from mbrl.planners.shooting import ShootingConfig

_ANY = {"none": NoPlannerConfig()} | {name: entry.config for name, entry in PLANNERS.items()}
_SHOOTING = {name: config for name, config in _ANY.items() if isinstance(config, ShootingConfig)}

AGENTS: dict[str, AgentEntry | GuestEntry] = {
    "apg": GuestEntry(brax.APGConfig, brax.make, brax.iteration),
    "dreamer": AgentEntry(dreamer.DreamerConfig, dreamer.make, _ANY),
    "mbpo": AgentEntry(mbpo.MBPOConfig, mbpo.make),
    "muzero": AgentEntry(muzero.MuZeroConfig, muzero.make, muzero.SEARCHES),
    "pets": AgentEntry(pets.PETSConfig, pets.make, _SHOOTING | {"cem": pets.PETSConfig().planner}),
    "ppo": GuestEntry(brax.PPOConfig, brax.make, brax.iteration),
    "sac": GuestEntry(brax.SACConfig, brax.make, brax.iteration),
    "tdmpc2": AgentEntry(tdmpc2.TDMPC2Config, tdmpc2.make, _SHOOTING),
}

__all__ = ["AGENTS", "Agent", "AgentEntry", "Guest", "GuestEntry", "Player"]
