"""Attention within windows, as the Swin Transformer has it (arXiv 2103.14030), without a shift."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32
GROWTH = 4  # of the width, in the layers behind the attention


class WindowLayer(nn.Module):
    """A transformer block within windows, in a width of its own, added to its input by a convolution.

    Every cell attends to all cells of its window, by what they are and by where they lie from it.
    """

    def __init__(self, outer: int, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.enter = nn.Conv2d(outer, width, 1)
        self.norm1 = nn.GroupNorm(GROUPS, width)
        self.table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))  # what an offset adds, by head
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.GroupNorm(GROUPS, width)
        self.grow = nn.Conv2d(width, GROWTH * width, 1)
        self.shrink = nn.Conv2d(GROWTH * width, width, 1)
        self.leave = nn.Conv2d(width, outer, 1)
        self.conv = nn.Conv2d(outer, outer, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, outer, H, W), H and W multiples of the window, to the same shape."""
        h = self.enter(x)
        h = h + self._attend(self.norm1(h))
        h = h + self.shrink(F.gelu(self.grow(self.norm2(h))))
        return x + self.conv(self.leave(h))

    def _attend(self, x: Tensor) -> Tensor:
        side = self.window
        windows = x.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 3, 5, 1)  # (B, Y, X, y, x, C)
        tokens = windows.flatten(3, 4).flatten(0, 2)
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.table[self._offsets(x.device)].permute(2, 0, 1).to(query.dtype)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        tokens = self.out(attended.transpose(1, 2).flatten(2))
        return tokens.view(windows.shape).permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def _offsets(self, device: torch.device) -> Tensor:
        """Row of the table for each pair of cells of a window, (window^2, window^2)."""
        cell = torch.arange(self.window**2, device=device)
        down, across = (axis[:, None] - axis + self.window - 1 for axis in (cell // self.window, cell % self.window))
        return down * (2 * self.window - 1) + across
