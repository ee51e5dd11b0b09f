"""Rollouts turned into numbers: returns, how well a model predicts, statistics over seeds."""
