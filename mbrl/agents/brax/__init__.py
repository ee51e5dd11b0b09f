"""SAC, PPO and APG as Brax's own training package has them, as guests."""

from mbrl.agents.brax.config import APGConfig, PPOConfig, SACConfig
from mbrl.agents.brax.guest import iteration, make

__all__ = ["APGConfig", "PPOConfig", "SACConfig", "iteration", "make"]
