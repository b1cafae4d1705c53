"""Choices of `reg=`: regularization. A file without a leading underscore is a choice."""
