"""Choices of `precision=`: number formats of training. A file without a leading underscore is a choice."""
