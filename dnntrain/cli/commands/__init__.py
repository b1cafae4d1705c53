"""The verbs of the command line, one file each: `run(arguments) -> int` returns the exit code."""
