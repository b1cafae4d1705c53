"""Choices of `task=`: what a run is judged by. A file without a leading underscore is a choice."""
