"""The runner: from a config to a trained, saved and logged run."""
