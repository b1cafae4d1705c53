"""Sweeps: which trials a line makes, where each runs, and a pool of processes that runs them."""
