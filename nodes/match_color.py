"""Match Colour."""

from comfy_api.latest import io
from torch import Tensor

from ..flowmapsr_core.images.batch import batch_of
from ..flowmapsr_core.images.color import METHODS, match_color
from .comfyui.images import join_alpha, pairs, split_alpha
from .comfyui.schema import make_schema
from .comfyui.wrap import CHOICES, NO_WRAP, TOOLTIP, wrap_of


class MatchColor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlowMapSR_MatchColor",
            display_name="Match Colour",
            category="image/upscaling/FlowMapSR",
            description="Gives an upscaled image the colours of its low-resolution source; its detail stays.",
            search_aliases=[
                "color match",
                "color correction",
                "colour transfer",
                "wavelet",
                "adain",
                "fix color shift",
            ],
            inputs=[
                io.Image.Input("image", tooltip="Upscaled images, of any upscaler. Alpha is kept."),
                io.Image.Input(
                    "reference", tooltip="Their low-resolution sources: one for all images, or one for each."
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="lr-residual",
                    tooltip="lr-residual corrects locally without halos. transport and transport-smooth need POT.",
                ),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="0 is off, 1 the full correction."
                ),
                io.Combo.Input("wrap", options=CHOICES, default=NO_WRAP, optional=True, tooltip=TOOLTIP),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The images with corrected colours.")],
        )

    @classmethod
    def execute(
        cls, image: Tensor, reference: Tensor, method: str, strength: float, wrap: str = NO_WRAP
    ) -> io.NodeOutput:
        wrap = wrap_of(wrap)
        (color, alpha), (source, _) = split_alpha(image), split_alpha(reference)
        matched = (match_color(sr, lr, method, strength, wrap).clamp(0, 1) for sr, lr in pairs(color, source))
        return io.NodeOutput(join_alpha(batch_of(len(color), matched), alpha, wrap))
