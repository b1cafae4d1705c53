"""Choices of `quant=`: quantization. A file without a leading underscore is a choice."""
