"""Plan a run: layout, micro-batches, memory, precision and threads."""
