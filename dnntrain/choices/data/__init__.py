"""Choices of `data=`: data sets. A file without a leading underscore is a choice."""
