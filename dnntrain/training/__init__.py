"""The engine: trainer, loop, optimizer step, loss, evaluation, checkpointing, signals, metrics."""
