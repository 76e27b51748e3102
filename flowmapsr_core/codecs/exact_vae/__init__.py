"""Exact decoding and encoding by diffusers' ``AutoencoderKL``, layer by layer over bands of rows.

Tiles of a latent cannot be decoded one by one and put together: GroupNorm and the attention see the whole image. So a
layer is computed for the whole image before the next one begins, a band of rows at a time, and the result is the
untiled one up to rounding:

- a convolution reads a band and the rows beside it, and pads with zeros at the image's own border only;
- GroupNorm takes the statistics of the whole image, merged from those of the bands;
- the attention takes the queries of a band and the keys and values of the whole image.

Every layer is computed once. A band is dropped when it has been read for the last time, so what is held is two
activations, the input of a residual block and its branch, and both may lie in host memory.
"""

from .walk import Progress, decode, encode

__all__ = ["Progress", "decode", "encode"]
