"""Checks for combinations of settings that cannot run."""
