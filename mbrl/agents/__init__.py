"""Agents: thin compositions of a world model and what acts in it, and guests that bring their own training loop."""

from mbrl.agents import brax, dreamer, mbpo, muzero, pets, tdmpc2
from mbrl.agents.base import Agent, AgentEntry, Guest, GuestEntry, Player

AGENTS: dict[str, AgentEntry | GuestEntry] = {
    "apg": GuestEntry(brax.APGConfig, brax.make, brax.iteration),
    "dreamer": AgentEntry(dreamer.DreamerConfig, dreamer.make),
    "mbpo": AgentEntry(mbpo.MBPOConfig, mbpo.make),
    "muzero": AgentEntry(muzero.MuZeroConfig, muzero.make),
    "pets": AgentEntry(pets.PETSConfig, pets.make),
    "ppo": GuestEntry(brax.PPOConfig, brax.make, brax.iteration),
    "sac": GuestEntry(brax.SACConfig, brax.make, brax.iteration),
    "tdmpc2": AgentEntry(tdmpc2.TDMPC2Config, tdmpc2.make),
}

__all__ = ["AGENTS", "Agent", "AgentEntry", "Guest", "GuestEntry", "Player"]
