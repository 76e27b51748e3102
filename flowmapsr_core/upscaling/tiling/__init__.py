"""A velocity evaluated tile by tile: exactly where the network's receptive field is finite, else by blending."""

from ...networks import Network
from .blend import BlendTiling
from .grid import Box, TileCallback, tile_starts
from .halo import HaloTiling

Tiling = HaloTiling | BlendTiling


def tiling_for(network: Network, tile: int, overlap: int, batch: int = 1, wrap: str = "") -> Tiling:
    """The tiling that suits a network.

    ``tile`` (0 for one tile) and ``overlap`` are in latent cells and rounded up to the network's stride. ``overlap``
    and ``batch`` are a :class:`BlendTiling`'s; with a finite receptive field neither is needed. ``wrap`` says which
    edges meet.
    """
    tile, overlap = (-(-length // network.stride) * network.stride for length in (tile, overlap))
    if not (tile or wrap):
        return HaloTiling(0, 0, network.stride)  # a radius may take a while to be measured
    if network.receptive_radius is not None:
        return HaloTiling(tile, network.receptive_radius, network.stride, wrap)
    return BlendTiling(tile, overlap, network.stride, batch, wrap)


__all__ = ["BlendTiling", "Box", "HaloTiling", "TileCallback", "Tiling", "tile_starts", "tiling_for"]
