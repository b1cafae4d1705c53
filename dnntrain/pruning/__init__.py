"""Make a network smaller: which channels belong together, which of them go, and the cut itself."""
