"""On-disk formats: checkpoints of the whole state, and the portable model."""
