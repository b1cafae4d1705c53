"""The registry: `GROUP=NAME` on the command line is `choices/GROUP/NAME.py`."""
