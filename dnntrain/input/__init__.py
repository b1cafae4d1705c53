"""Input pipelines: sources, order, decoding, augmentation; resident and streaming."""
