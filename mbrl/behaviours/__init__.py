"""Behaviours: learning to act inside a world model."""
