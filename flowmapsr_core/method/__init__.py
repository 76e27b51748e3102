"""The method: the flow between a low- and a high-resolution image, its samplers, and named settings for them."""
