"""Choices of `adapt=`: what is trained of a network with weights. A file without a leading underscore is a choice."""
