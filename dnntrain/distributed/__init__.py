"""Run on several ranks: mesh, data, tensor and pipeline parallelism, rendezvous, watchdog."""
