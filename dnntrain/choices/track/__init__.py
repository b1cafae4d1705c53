"""Choices of `track=`: experiment trackers. A file without a leading underscore is a choice."""
