"""Choices of `sched=`: learning-rate schedules. A file without a leading underscore is a choice."""
