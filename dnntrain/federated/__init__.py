"""Federated training: partitions, cohorts, exact sums, compression, privacy and the server."""
