"""Choices of `task=`: loss and metrics. A file without a leading underscore is a choice."""
