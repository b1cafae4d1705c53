"""Choices of `parallel=`: layouts over processes. A file without a leading underscore is a choice."""
