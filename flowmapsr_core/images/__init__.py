"""Images as tensors and files: reading, writing, resampling, colours, measures, degradation. Knows no network."""
