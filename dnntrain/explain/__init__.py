"""Explain a trained model: maps that are checked, calibration, labels in doubt, and its layers."""
