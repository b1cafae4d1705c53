"""Choices of `monitor=`: monitors that react. A file without a leading underscore is a choice."""
