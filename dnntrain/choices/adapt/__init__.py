"""Choices of `adapt=`: the part of a network with weights that is trained. A file without a leading underscore is a choice."""
