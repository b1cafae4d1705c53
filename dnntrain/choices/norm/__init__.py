"""Choices of `norm=`: normalization layers. A file without a leading underscore is a choice."""
