"""Plan a run from its configuration and hardware: layout, micro-batches, memory, precision, threads."""
