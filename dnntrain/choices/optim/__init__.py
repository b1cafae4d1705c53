"""Choices of `optim=`: optimizers. A file without a leading underscore is a choice."""
