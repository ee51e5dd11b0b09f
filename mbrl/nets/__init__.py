"""Network blocks, encoders, decoders and heads (flax.linen)."""
