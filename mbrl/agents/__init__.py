"""Agents: thin compositions of a world model and what acts in it."""

from mbrl.agents import dreamer
from mbrl.agents.base import Agent, AgentEntry

AGENTS: dict[str, AgentEntry] = {
    "dreamer": AgentEntry(dreamer.DreamerConfig, dreamer.make),
}

__all__ = ["AGENTS", "Agent", "AgentEntry"]
