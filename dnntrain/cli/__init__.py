"""Turn argv into a command, and its result into an exit code."""
