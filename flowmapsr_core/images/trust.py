"""How far an LR image can be trusted: what a result lacks of it is detail that was lost, or noise that was taken out.

A small network looks at both, LR image and residual, and says which share of the residual is worth adding back, place
by place. It was trained by ``python -m flowmapsr.trainer.tools.trust``.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from .jpeg import cosine_transform
from .resize import resize
from .wrap import surround

FILE = Path(__file__).parents[1] / "models" / "lr-trust.safetensors"
CELL, WINDOW = 4, 8  # pixels; spectra are of overlapping windows, each as large as a block of JPEG
WIDTH, DILATIONS = 32, (1, 2, 4)
LEAST = 1e-6  # energy, about that of rounding to 8 bits
CERTAIN = 0.8  # the share that training, which takes something off for doubt, leaves of what is certain; it counts as 1
DOUBTED = 0.25  # of an image, whose shares no other part of it exceeds


class Trust(nn.Module):
    """LR image (B, 3, h, w) in [0, 1] and bands of a residual, each of its shape, to shares (B, bands, h, w).

    It sees logarithms of energies around each place: of the LR image's frequencies, where noise fills what is empty and
    JPEG empties what is full; of the bands; and of what is left of these when cells are averaged, which is little of
    noise.

    Args:
        bands: how many.
    """

    spectrum: Tensor

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.register_buffer("spectrum", _spectrum(), persistent=False)
        inputs = (WINDOW**2 + 2 * bands, WIDTH, WIDTH)
        layers = zip(inputs, DILATIONS, strict=True)
        self.around = nn.ModuleList(nn.Conv2d(i, WIDTH, 3, dilation=dilation) for i, dilation in layers)
        self.shares = nn.Conv2d(WIDTH, bands, 1)

    def forward(self, lr: Tensor, bands: Sequence[Tensor], wrap: str = "") -> Tensor:
        x = self.energies(lr, bands, wrap).add_(LEAST).log_().add_(7).div_(3)  # about normal
        for convolution, dilation in zip(self.around, DILATIONS, strict=True):
            x = F.silu(convolution(surround(x, dilation, dilation, wrap)))
        return resize(self.shares(x).sigmoid(), (lr.shape[-2], lr.shape[-1]), "bilinear", wrap)

    @torch.no_grad()
    def energies(self, lr: Tensor, bands: Sequence[Tensor], wrap: str) -> Tensor:
        """What it sees of each cell (B, WINDOW^2 + 2 bands, h / CELL, w / CELL)."""
        gray = _whole_cells(lr.mean(dim=1, keepdim=True), wrap)
        edge = (WINDOW - CELL) // 2
        energies = [F.conv2d(surround(gray, edge, edge, wrap), self.spectrum, stride=CELL).square_()]
        for band in bands:
            cells = [F.avg_pool2d(_whole_cells(x, wrap), CELL) for x in (band.square(), band)]
            energies += [x.mean(dim=1, keepdim=True) for x in (cells[0], cells[1].square_())]
        return torch.cat(energies, dim=1)


def _spectrum() -> Tensor:
    """The cosine transform of a window, (WINDOW^2, 1, WINDOW, WINDOW)."""
    basis = cosine_transform()
    return torch.einsum("ky,lx->klyx", basis, basis).reshape(WINDOW**2, 1, WINDOW, WINDOW)


def _whole_cells(image: Tensor, wrap: str) -> Tensor:
    """With more rows below and columns on the right, until cells fill it."""
    down, along = (-length % CELL for length in image.shape[-2:])
    return surround(image, down, along, wrap)[..., down:, along:]


def trusted_shares(lr: Tensor, bands: Sequence[Tensor], wrap: str = "") -> Tensor:
    """Shares (B, bands, h, w) of bands by the trained network, see :class:`Trust`.

    None is larger than those of the quarter of its image that is doubted most. Noise and JPEG are all over an image,
    and a place where they are seen tells of others, where texture hides them.
    """
    shares = load_trust(lr.device)(lr, bands, wrap).div(CERTAIN).clamp_(max=1)
    places = shares.flatten(2)
    most = places.kthvalue(1 + int(DOUBTED * (places.shape[2] - 1)), dim=2).values
    return torch.minimum(shares, most[..., None, None])


@cache
def load_trust(device: torch.device) -> Trust:
    """The trained network on a device, frozen; read once."""
    tensors = load_file(FILE)
    trust = Trust(bands=len(tensors["shares.weight"]))
    trust.load_state_dict(tensors)
    return trust.float().requires_grad_(False).eval().to(device)
