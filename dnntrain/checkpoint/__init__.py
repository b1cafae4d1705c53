"""On-disk formats: checkpoints of the complete state, and the portable model."""
