"""Sweeps: many runs of one experiment, and other libraries' searches over its settings."""
