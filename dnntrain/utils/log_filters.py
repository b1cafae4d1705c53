"""Filter known, harmless log messages of libraries."""

from __future__ import annotations

import logging

#: Logger → words of its message. Each is known and harmless. Every other message of the library is
#: shown.
NOISE_LINES = {
    # torchao registers its own enumeration in a way that torch deprecates.
    "torch.utils._pytree": "is an Enum subclass and is now natively supported",
    # Inductor looks for a CUDA toolkit even if it compiles for the processor. The plan says whether
    # there is a GPU.
    "torch.utils.cpp_extension": "No CUDA runtime is found",
}


class _WordsFilter(logging.Filter):
    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return self.words not in record.getMessage()


def hide_noise() -> None:
    """Hide the messages of `NOISE_LINES` from now on. May be called again."""
    for name, words in NOISE_LINES.items():
        logger = logging.getLogger(name)
        if not any(isinstance(existing, _WordsFilter) for existing in logger.filters):
            logger.addFilter(_WordsFilter(words))
