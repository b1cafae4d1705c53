"""Ranks: mesh, data, tensor and pipeline parallelism, rendezvous, watchdog."""
