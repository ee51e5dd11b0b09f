"""Model-based reinforcement learning in JAX."""
