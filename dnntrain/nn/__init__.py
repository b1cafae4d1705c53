"""Building blocks that several choices share: cost, initialization, partition, weights, batch-norm statistics."""
