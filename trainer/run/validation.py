"""Validation on held-out photographs: PSNR, high frequencies and a picture."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...flowmapsr_core.atomic import replacing
from ...flowmapsr_core.errors import UserError
from ...flowmapsr_core.images.degradation import PRESETS, degrade
from ...flowmapsr_core.images.eight_bit import to_pillow, to_tensor
from ...flowmapsr_core.images.metrics import high_frequency_energy, psnr_y
from ...flowmapsr_core.images.resize import resize
from ...flowmapsr_core.method.looks import Look, find_look
from ...flowmapsr_core.model import Model
from ...flowmapsr_core.upscaling.pipeline import upscale
from ...flowmapsr_core.upscaling.settings import override
from ..data.photos import UNREADABLE, find_photos

FACTOR = 4
CROP = 256
Settings = dict[str, dict[str, Any]]  # of upscale(), by column
ENDS = ("mean", "1")  # of the dial, whose half is "0.5"
UNGUIDED: Settings = {
    "mean": {"look": "faithful"},
    "0.5": {"steps": 1, "guidance": 1.0, "realism": 0.5},
    **{str(n): {"steps": n, "guidance": 1.0} for n in (1, 2, 4)},
}
GUIDED: Settings = {"balanced": {"look": "balanced"}}  # what people get unless they ask for more or less


def validate(model: Model, hr: Tensor, guided: bool = False) -> tuple[dict[str, float], Tensor]:
    """PSNR gain over bicubic in dB and high-frequency ratio to the HR image at x4, by preset and number of steps.

    Args:
        model: is evaluated where its weights are.
        hr: from :func:`load_crops`.
        guided: whether the network has learned to follow w; the look ``balanced`` is measured too then.

    Returns:
        The figures, and a grid (3, H, W) in [0, 1]: a row per photograph with LR, bicubic, posterior mean, the dial at
        0.5, 1, 2 and 4 steps at w = 1, ``balanced`` if it is measured, the blend of the dial's ends, and HR; without
        what is the same picture again.
    """
    hr = hr.to(model.device)
    report, grid = {}, hr
    for name in ("bicubic", "flowmapsr"):
        lr = degrade(hr, FACTOR, PRESETS[name], torch.Generator().manual_seed(0))
        columns = {"bicubic": resize(lr, (CROP, CROP)).clamp(0, 1)}
        for label, settings in distinct(model, UNGUIDED | GUIDED if guided else UNGUIDED).items():
            columns[label] = upscale(model, lr, FACTOR, color="none", tile=0, **settings)
        columns["blend"] = blend(columns, ENDS)
        base, _ = score(columns["bicubic"], hr)
        for label, image in columns.items():
            psnr, ratio = score(image, hr)
            report[f"{name}/{label}/hf"] = round(ratio, 3)
            report[f"{name}/{label}/gain"] = round(psnr - base, 3)
        grid = make_grid([resize(lr, (CROP, CROP), "nearest"), *columns.values(), hr])
    return report, grid


def distinct(model: Model, columns: Settings) -> Settings:
    """The columns without those that the model's method samples as it does one before."""
    sampled: dict[Look, str] = {}
    for name, column in columns.items():
        changes = (column.get(key) for key in ("steps", "guidance", "realism"))
        look = override(find_look(column.get("look", "balanced"), model.looks), *changes)
        sampled.setdefault(replace(model.method.settings(look), lora_scale=1.0), name)
    return {name: columns[name] for name in sampled.values()}


def blend(columns: dict[str, Tensor], ends: tuple[str, str]) -> Tensor:
    """Half of one column and half of another: what the realism dial has to beat at 0.5."""
    return (columns[ends[0]] + columns[ends[1]]) / 2


def score(image: Tensor, hr: Tensor) -> tuple[float, float]:
    """(Y-channel PSNR in dB, high-frequency energy relative to the HR image's), averaged over images (B, 3, H, W)."""
    ratio = high_frequency_energy(image).mean() / high_frequency_energy(hr).mean()
    return psnr_y(image, hr).mean().item(), ratio.item()


def load_crops(folder: Path) -> Tensor:
    """The centre of every photograph of a folder, (B, 3, CROP, CROP) in [0, 1]."""
    photos, _ = find_photos(folder, CROP)
    try:
        return torch.stack([_centre(to_tensor(photo.decode())) for photo in photos])
    except UNREADABLE as error:
        raise UserError(f"a photograph of {folder} is damaged ({error}); take it away") from error


def make_grid(columns: list[Tensor]) -> Tensor:
    """Images as one (3, H, W) in [0, 1], a column per tensor (B, 3, H, W)."""
    return torch.cat([torch.cat(list(column), dim=1) for column in columns], dim=2).clamp(0, 1)


def save_png(image: Tensor, path: Path) -> None:
    """Write an image (3, H, W) in [0, 1]."""
    with replacing(path) as partial:
        to_pillow(image).save(partial, "PNG")


def _centre(image: Tensor) -> Tensor:
    """Central square, shrunk from twice its size where there is that much, so that it is sharp."""
    window = min(2 * CROP, *image.shape[-2:])
    top, left = ((side - window) // 2 for side in image.shape[-2:])
    return resize(image[None, :, top : top + window, left : left + window], (CROP, CROP), "bicubic")[0].clamp(0, 1)
