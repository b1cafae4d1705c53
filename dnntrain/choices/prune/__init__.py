"""Choices of `prune=`: pruning. A file without a leading underscore is a choice."""
