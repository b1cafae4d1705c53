"""Pipelines: named stages, each a run that takes the model of an earlier one."""
