"""Choices of `model=`: networks. A file without a leading underscore is a choice."""
