"""Choices of `federated=`: training over clients that keep their data. A file without a leading underscore is a choice."""
