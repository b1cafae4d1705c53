"""Run on several ranks: mesh, parallelism, rendezvous and watchdog."""
