"""What differs between two runs, and where their training parted."""
