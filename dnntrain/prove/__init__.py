"""Verdicts: decide from pairs of runs whether B is better than A."""
