"""The commands, one file each: `run(arguments) -> int` returns the exit code."""
