"""argv → command → exit code."""
