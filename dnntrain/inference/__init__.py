"""Evaluate, predict with and export a finished run or an export."""
