"""Choices of `distill=`: knowledge distillation. A file without a leading underscore is a choice."""
