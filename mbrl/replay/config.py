"""What the replay holds and what a batch from it looks like."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """The replay ring and the batches drawn from it."""

    capacity: int = 100_000
    """Agent steps kept, over all environments; the oldest are overwritten."""
    batch_size: int = 16
    """Sequences in a batch."""
    batch_length: int = 64
    """Trained steps in a sequence; one more is drawn before them as context."""
    recent_fraction: float = 0.125
    """Share of each batch that ends at the newest step instead of being drawn uniformly."""
