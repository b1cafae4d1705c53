"""The reasons for which a plan refuses a combination of settings."""
