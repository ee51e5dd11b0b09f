"""Deployment: a trained policy as a file, as a server, and in PyTorch; what a machine lacks for any of it."""
