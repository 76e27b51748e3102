"""What an evaluation of a network costs, from shapes alone."""

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .communitynet import CommunityNet

if TYPE_CHECKING:
    from . import Network


def flops(network: "Network", cells_h: int, cells_w: int) -> int:
    """Floating-point operations of ``network.evaluate`` on one state of cells_h x cells_w cells.

    Nothing is computed, but a small picture where the network is a :class:`.communitynet.CommunityNet`.
    A multiply-add counts two. Convolutions, linear layers and attention count, pointwise operations and norms do not.
    """
    from torch.utils.flop_counter import FlopCounterMode  # which imports torch's compiler

    if isinstance(network, CommunityNet):  # there is no other than the one with its weights
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            pixels = network.try_out()
        return counter.get_total_flops() * cells_h * cells_w // pixels
    kind: Any = type(network)
    with torch.device("meta"), torch.no_grad():
        shapes = kind(network.config)
        time = torch.empty(1)
        condition = shapes.embed(time, time, torch.empty(1, network.config.prompt_dim), time)
        x = torch.empty(1, network.config.inputs * shapes.channels, cells_h, cells_w)
        # the counter knows products of matrices on every device, fused attention not on all
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            shapes.evaluate(x, condition)
    return counter.get_total_flops()
