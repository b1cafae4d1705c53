"""Benchmarks: runs and exports, measured side by side on this machine."""
