"""Compare to Reference."""

import math

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..flowmapsr_core.images.metrics import color_difference, high_frequency_energy, psnr_y
from ..flowmapsr_core.images.resize import resize
from .comfyui.images import join_alpha, pairs, split_alpha
from .comfyui.schema import make_schema

FLAT = 1e-10  # far less than rounding to 8 bits adds, 1e-6: two images without any detail have a ratio of 1


class Compare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlowMapSR_Compare",
            display_name="Compare to Reference",
            category="image/upscaling/FlowMapSR",
            description="Measures how close images are to a reference, and puts both side by side.",
            search_aliases=["psnr", "ciede2000", "metrics", "measure quality", "side by side"],
            inputs=[
                io.Image.Input("image", tooltip="One image or a batch; resized where the reference has another size."),
                io.Image.Input("reference", tooltip="What they should look like: one for all images, or one for each."),
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="Three figures for each image."),
                io.Image.Output(
                    display_name="side_by_side", tooltip="The image on the left, its reference on the right."
                ),
            ],
            is_output_node=True,  # figures are wanted even where nothing is connected to them
        )

    @classmethod
    def execute(cls, image: Tensor, reference: Tensor) -> io.NodeOutput:
        (color, _), (target, _) = split_alpha(image), split_alpha(reference)
        (height, width), size = color.shape[-2:], tuple(target.shape[-2:])
        lines, both = [], []
        if (height, width) != size:
            lines.append(f"Resized from {width}x{height} to the reference's {size[1]}x{size[0]}")
        for number, (left, right) in enumerate(pairs(color, target), 1):
            left, right = resize(left, size).clamp(0, 1), right.clamp(0, 1)
            if len(color) > 1:
                lines.append(f"Image {number}")
            lines += measure(left, right)
            both.append(torch.cat([left, right], dim=-1))
        text = "\n".join(lines)
        return io.NodeOutput(text, join_alpha(torch.cat(both)), ui=ui.PreviewText(text))


def measure(image: Tensor, reference: Tensor) -> list[str]:
    """A line for each figure of one image."""
    ratio = (high_frequency_energy(image) + FLAT) / (high_frequency_energy(reference) + FLAT)
    psnr = psnr_y(image, reference).item()
    return [
        f"PSNR-Y: {psnr:.2f} dB" if math.isfinite(psnr) else "PSNR-Y: infinite, no difference",
        f"CIEDE2000 after low-pass: {color_difference(image, reference).item():.2f}",
        f"High-frequency energy ratio: {ratio.item():.2f}",
    ]
