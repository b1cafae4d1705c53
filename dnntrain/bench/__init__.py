"""Runs and exports side by side on this machine."""
