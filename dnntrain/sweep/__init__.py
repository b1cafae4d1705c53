"""Sweeps: the trials of a command line, and the processes that run them."""
