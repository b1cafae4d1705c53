"""The options of each command, as data: --help and the parser read them."""
