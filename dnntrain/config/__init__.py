"""Turn command-line overrides into a checked, frozen `RunConfig`, without importing torch."""
