"""Measure a learning-rate range or a batch size."""
