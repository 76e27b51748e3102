"""HR crops from a folder of photographs."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from ..flowmapsr_core.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
DECODED_IMAGES = 128  # kept in memory by each process: about 7 MB each at 1920x1280


def list_images(folder: Path, smallest: int = 1) -> list[Path]:
    """Readable images of a folder tree with sides of at least ``smallest`` pixels, sorted.

    Raises :class:`UserError` if there are none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; set it to a folder of photographs")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    paths = [path for path in files if _shorter_side(path) >= smallest]
    if not paths:
        raise UserError(f"{folder} holds no readable image of at least {smallest}x{smallest} pixels")
    return paths


def _shorter_side(path: Path) -> int:
    """0 for what is no image."""
    try:
        with Image.open(path) as image:
            return min(image.size)
    except OSError:
        return 0


@lru_cache(maxsize=DECODED_IMAGES)
def load_rgb(path: Path) -> Image.Image:
    """Decode an image as upright 8-bit RGB."""
    try:
        return ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    except OSError as error:
        raise UserError(f"{path} is damaged ({error}); take it out of the folder") from error


def to_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) float in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


class PhotoCrops(Dataset):
    """Endless stream of square HR crops; item i is the same for a seed, whatever came before it.

    A crop shows a window ``zoom`` times its own size, shrunk: photographs from the web are soft at full size, and a
    network that never saw a sharp pixel cannot make one.
    """

    def __init__(self, folder: Path, crop: int, zoom: tuple[float, float], seed: int) -> None:
        self.crop, self.zoom, self.seed = crop, zoom, seed
        self.paths = list_images(folder, crop)

    def __getitem__(self, index: int) -> Tensor:
        random = np.random.default_rng((self.seed, index))
        image = load_rgb(self.paths[random.integers(len(self.paths))])
        most = min(self.zoom[1], min(image.size) / self.crop)
        window = self.crop * random.uniform(min(self.zoom[0], most), most)
        left, top = (random.uniform(0, side - window) for side in image.size)
        box = (left, top, left + window, top + window)
        crop = to_tensor(image.resize((self.crop, self.crop), Image.Resampling.BICUBIC, box=box))
        crop = crop.rot90(int(random.integers(4)), (1, 2))
        return crop.flip(2) if random.integers(2) else crop
