"""Utilities without knowledge of training: random keys, units, files, hardware."""
