"""Choices of `launch=`: how processes are started. A file without a leading underscore is a choice."""
