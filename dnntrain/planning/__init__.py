"""Configuration + facts → `Plan`: layout, micro-batches, memory, precision, threads."""
