"""A trained model in portable forms: written, read back and compared with its source."""
