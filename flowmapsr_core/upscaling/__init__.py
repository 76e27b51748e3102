"""Upscaling: the whole chain from image to image, planned so that it fits the memory there is."""
