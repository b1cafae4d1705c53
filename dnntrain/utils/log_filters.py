"""Lines that libraries log about their own code, and that tell whoever runs a command nothing."""

from __future__ import annotations

import logging

#: Logger → what its line says. Each is known, harmless, and hidden by its words: whatever else the library warns of is shown.
NOISE_LINES = {
    # torchao registers an enumeration of its own in a way that torch is about to give up.
    "torch.utils._pytree": "is an Enum subclass and is now natively supported",
    # Inductor looks for a CUDA toolkit also where it compiles for the processor; whether there is a GPU is in the plan.
    "torch.utils.cpp_extension": "No CUDA runtime is found",
}


class _WordsFilter(logging.Filter):
    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return self.words not in record.getMessage()


def hide_noise() -> None:
    """Hides `LINES` from now on. May be called again."""
    for name, words in NOISE_LINES.items():
        logger = logging.getLogger(name)
        if not any(isinstance(existing, _WordsFilter) for existing in logger.filters):
            logger.addFilter(_WordsFilter(words))
