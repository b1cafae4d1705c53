"""Words of the command line → checked, frozen `RunConfig`. Nothing here imports torch."""
