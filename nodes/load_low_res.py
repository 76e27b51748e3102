"""Load Low-Res Image."""

import hashlib
import logging
import os
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..flowmapsr_core import UserError
from ..flowmapsr_core.images.alpha import fill_transparent
from ..flowmapsr_core.images.batch import batch_of
from ..flowmapsr_core.images.picture_files import Picture, read_frames
from ..flowmapsr_core.images.resize import resize, resize_alpha
from ..flowmapsr_core.upscaling.pipeline import MAX_SCALE, output_size
from ..flowmapsr_core.upscaling.soft import find_detail, shrink
from .comfyui.images import given_out, join_alpha, singles, split_alpha
from .comfyui.schema import make_schema
from .comfyui.source import Source, SourceType, is_painted
from .comfyui.wrap import CHOICES, NO_WRAP, TOOLTIP, wrap_of

log = logging.getLogger("flowmapsr")

MEGAPIXEL = 1024 * 1024  # as ComfyUI counts them
LONGEST_EDGE = 65536
NOT_CONNECTED = object()  # ahead of a run ComfyUI gives None for what is connected, and leaves out what is not


class LoadLowRes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlowMapSR_LoadLowRes",
            display_name="Load Low-Res Image",
            category="image/upscaling/FlowMapSR",
            description="Loads an image and resizes it to the size that it is to be upscaled to.",
            search_aliases=["load image", "upscale size", "low resolution", "megapixels", "longest edge"],
            inputs=[
                io.Combo.Input(
                    "image",
                    options=input_images(),
                    upload=io.UploadType.image,
                    tooltip="A file in ComfyUI's input folder. Its orientation is respected, 16 bits are kept.",
                ),
                io.Combo.Input(
                    "size_by",
                    options=["factor", "longest edge", "megapixels"],
                    default="factor",
                    tooltip="Which of the three values below counts. The other two are ignored.",
                ),
                io.Float.Input(
                    "factor",
                    default=4.0,
                    min=1.0,
                    max=MAX_SCALE,
                    step=0.05,
                    tooltip="Counts for size_by factor: output side / input side.",
                ),
                io.Int.Input(
                    "longest_edge",
                    default=2048,
                    min=1,
                    max=LONGEST_EDGE,
                    tooltip="Counts for size_by longest edge: the output's longer side in pixels.",
                ),
                io.Float.Input(
                    "megapixels",
                    default=4.0,
                    min=0.01,
                    max=1024.0,
                    step=0.01,
                    tooltip="Counts for size_by megapixels: the output's area; 1 is 1024 x 1024 pixels.",
                ),
                io.Image.Input(
                    "pixels", optional=True, tooltip="Images of another node. If connected, the file is not read."
                ),
                io.Boolean.Input(
                    "auto",
                    default=False,
                    optional=True,
                    tooltip="Shrinks what is blurred or was enlarged to the size of its detail; the output size stays.",
                ),
                io.Combo.Input("wrap", options=CHOICES, default=NO_WRAP, optional=True, tooltip=TOOLTIP),
            ],
            outputs=[
                io.Image.Output(display_name="lr", tooltip="The images as loaded, without alpha."),
                io.Image.Output(display_name="upscaled", tooltip="The images at the output size, bicubic."),
                io.Mask.Output(
                    display_name="alpha",
                    tooltip="What is transparent or painted, at the output size; empty if nothing is.",
                ),
                io.Int.Output(display_name="width", tooltip="Width of the output in pixels."),
                io.Int.Output(display_name="height", tooltip="Height of the output in pixels."),
                SourceType.Output(
                    display_name="source", tooltip="The file's name and what it says of the photograph, to save with."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, image: str | None, pixels: object = NOT_CONNECTED) -> bool | str:
        if image is None or pixels is not NOT_CONNECTED or folder_paths.exists_annotated_filepath(image):
            return True
        return f"{image} is not in ComfyUI's input folder; choose another image or upload it"

    @classmethod
    def fingerprint_inputs(cls, image: str | None, pixels: object = NOT_CONNECTED, **size: object) -> str:
        if image is None or pixels is not NOT_CONNECTED:
            return ""
        return hashlib.sha256(Path(folder_paths.get_annotated_filepath(image)).read_bytes()).hexdigest()

    @classmethod
    def execute(
        cls,
        image: str,
        size_by: str,
        factor: float,
        longest_edge: int,
        megapixels: float,
        pixels: Tensor | None = None,
        auto: bool = False,
        wrap: str = NO_WRAP,
    ) -> io.NodeOutput:
        wrap, source, painted = wrap_of(wrap), None, False
        if pixels is None:
            frames = load_frames(Path(folder_paths.get_annotated_filepath(image)))
            painted = is_painted(image)
            source = None if painted else Source.of(frames[0], image)
            lr, alpha = batch_of_frames(frames)
        else:
            lr, alpha = split_alpha(pixels)
        if not painted:
            lr = fill_transparent(lr, alpha, wrap)
        height, width = lr.shape[-2:]
        scales = {
            "factor": factor,
            "longest edge": longest_edge / max(height, width),
            "megapixels": (megapixels * MEGAPIXEL / (height * width)) ** 0.5,
        }
        size = target_size(lr, size_by, scales[size_by])
        if auto:
            lr = shrink_soft(lr, size, image if pixels is None else "the images", wrap)
        upscaled = batch_of(len(lr), (resize(single, size, wrap=wrap).clamp(0, 1) for single in singles(lr)))
        shape = (len(lr), 1, *size)
        opaque = torch.ones(shape, device=lr.device) if alpha is None else resize_alpha(alpha, upscaled, wrap)
        mask = given_out(1 - opaque[:, 0])
        return io.NodeOutput(join_alpha(lr), join_alpha(upscaled), mask, size[1], size[0], source)


def input_images() -> list[str]:
    """Names of the images in ComfyUI's input folder."""
    folder = folder_paths.get_input_directory()
    files = [file.name for file in os.scandir(folder) if file.is_file()]
    return sorted(folder_paths.filter_files_content_types(files, ["image"]))


def load_frames(path: Path) -> list[Picture]:
    """The pages or frames of a file that have the first one's size."""
    frames = read_frames(path)
    batch = [frame for frame in frames if frame.color.shape == frames[0].color.shape]
    if others := len(frames) - len(batch):
        log.warning("%s: %d of %d pages have another size and are left out", path, others, len(frames))
    return batch


def batch_of_frames(batch: list[Picture]) -> tuple[Tensor, Tensor | None]:
    """Colour (B, 3, H, W) of pictures of one size, and alpha if any has it."""
    color = torch.cat([frame.color for frame in batch])
    if all(frame.alpha is None for frame in batch):
        return color, None
    opaque = torch.ones_like(batch[0].color[:, :1])
    return color, torch.cat([opaque if frame.alpha is None else frame.alpha for frame in batch])


def shrink_soft(images: Tensor, size: tuple[int, int], name: str, wrap: str) -> Tensor:
    """Images (B, 3, H, W) as small as the detail of the sharpest one is, where they are to be of ``size`` then."""
    found = find_detail(images)
    log.info("%s: %s", name, found.describe(size))
    shrunk = found.shrunk(size)
    if shrunk == found.before:
        return images
    return batch_of(len(images), (shrink(single, shrunk, wrap) for single in singles(images)))


def target_size(image: Tensor, size_by: str, scale: float) -> tuple[int, int]:
    """Output (height, width) of an image (B, 3, H, W); :class:`UserError` unless it is 1 to 8 times as large."""
    if not 1 <= scale <= MAX_SCALE:
        height, width = image.shape[-2:]
        raise UserError(
            f"this {size_by} makes a {width}x{height} image {scale:.3g} times as large; "
            f"choose one that makes it 1 to {MAX_SCALE} times as large"
        )
    return output_size(image, scale, None)
