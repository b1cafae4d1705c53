"""The life of one run: session, directory, launch, training, finish."""
