"""Small parts without knowledge of training: random keys, units, files, signals, hardware."""
