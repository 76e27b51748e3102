"""FlowMapSR Upscale: the whole chain in one node."""

from comfy_api.latest import io
from torch import Tensor

from ..flowmapsr_core import upscale
from ..flowmapsr_core.images.alpha import fill_transparent
from ..flowmapsr_core.method.looks import LOOKS
from ..flowmapsr_core.upscaling.pipeline import MAX_SCALE, MAX_SEED, output_size
from ..flowmapsr_core.upscaling.settings import warn_of_factor, warn_of_one_picture
from .comfyui.host import ComfyHost
from .comfyui.images import from_mask, join_alpha, split_alpha
from .comfyui.loading import ModelType
from .comfyui.progress import progress
from .comfyui.schema import make_schema
from .comfyui.upscale_models import ready
from .comfyui.wrap import CHOICES, NO_WRAP, TOOLTIP, wrap_of

BRIGHT = 1.25  # an image with values beyond this is one of light: resampling overshoots white by less


class Upscale(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlowMapSR_Upscale",
            display_name="FlowMapSR Upscale",
            category="image/upscaling",
            essentials_category="Image Tools",
            description="Upscales photographs 1x to 8x: resize, sampling, colour correction. Every image of a batch.",
            search_aliases=["upscaler", "super resolution", "enlarge", "enhance", "restore photo"],
            inputs=[
                io.Image.Input("image", tooltip="One image or a batch. Alpha is kept."),
                io.Float.Input(
                    "factor", default=4.0, min=1.0, max=MAX_SCALE, step=0.05, tooltip="Output side / input side."
                ),
                io.Combo.Input(
                    "look",
                    options=list(LOOKS),
                    default="balanced",
                    tooltip="faithful: closest to the source, without LoRAs. vivid: most detail.",
                ),
                ModelType.Input("model", optional=True, tooltip="The built-in model if nothing is connected."),
                io.Mask.Input(
                    "realism_mask",
                    optional=True,
                    tooltip="White takes the look, black stays closest to the source. As large as image or result.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    optional=True,
                    tooltip="Of the noise that some models start from. Others, as the built-in one, need none.",
                ),
                io.Combo.Input("wrap", options=CHOICES, default=NO_WRAP, optional=True, tooltip=TOOLTIP),
                io.UpscaleModel.Input(
                    "upscale_model",
                    optional=True,
                    tooltip="Instead of model: any from Load Upscale Model. It paints one picture, whatever the look.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The upscaled images.")],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        factor: float,
        look: str,
        model=None,
        realism_mask: Tensor | None = None,
        seed: int = 0,
        wrap: str = NO_WRAP,
        upscale_model=None,
    ) -> io.NodeOutput:
        wrap = wrap_of(wrap)
        color, alpha = split_alpha(image)
        with ready(model, upscale_model, look, color, output_size(color, factor, None), wrap) as (managed, device):
            warn_of_one_picture(managed, look, None, realism_mask)
            warn_of_factor(managed, factor)
            result = upscale(
                managed, fill_transparent(color, alpha, wrap), factor, look=look,
                realism_mask=from_mask(realism_mask, color), seed=seed, wrap=wrap, hdr=bool(color.amax() > BRIGHT),
                host=ComfyHost(device), progress=progress(),
            )  # fmt: skip
        return io.NodeOutput(join_alpha(result, alpha, wrap))
