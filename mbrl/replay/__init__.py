"""Experience on the device: a ring of the last steps, and batches of sequences from it."""
