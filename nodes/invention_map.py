"""Invention Map."""

from comfy_api.latest import io
from torch import Tensor

from ..flowmapsr_core import upscale
from ..flowmapsr_core.images.alpha import fill_transparent
from ..flowmapsr_core.images.batch import batch_of
from ..flowmapsr_core.images.heat import heat_picture
from ..flowmapsr_core.method.looks import LOOKS
from ..flowmapsr_core.upscaling.invention import map_invention, runs_of_map
from ..flowmapsr_core.upscaling.meter import in_turn
from .comfyui.host import ComfyHost
from .comfyui.images import given_out, join_alpha, pairs, split_alpha
from .comfyui.loading import ModelType, at_look, load_patcher
from .comfyui.managed import ManagedModel
from .comfyui.progress import progress
from .comfyui.schema import make_schema
from .comfyui.wrap import CHOICES, NO_WRAP, TOOLTIP, wrap_of


class InventionMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlowMapSR_InventionMap",
            display_name="Invention Map",
            category="image/upscaling/FlowMapSR",
            description="Shows where an upscaled image has detail that its source does not support, and how much.",
            search_aliases=["hallucination", "faithfulness", "uncertainty", "heat map", "invented detail"],
            inputs=[
                io.Image.Input("image", tooltip="Upscaled images, of any upscaler."),
                io.Image.Input("source", tooltip="What they were made of: one for all images, or one for each."),
                io.Combo.Input(
                    "look",
                    options=list(LOOKS),
                    default="balanced",
                    tooltip="That of the image. It counts for models that start from noise.",
                ),
                ModelType.Input("model", optional=True, tooltip="The built-in model if nothing is connected."),
                io.Combo.Input("wrap", options=CHOICES, default=NO_WRAP, optional=True, tooltip=TOOLTIP),
            ],
            outputs=[
                io.Mask.Output(display_name="map", tooltip="0: the source supports all that is seen. 1: nothing."),
                io.Image.Output(display_name="heat", tooltip="The map in colours over the gray image."),
                io.Float.Output(display_name="score", tooltip="Mean of the map: one number for all images."),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, source: Tensor, look: str, model=None, wrap: str = NO_WRAP) -> io.NodeOutput:
        wrap = wrap_of(wrap)
        patcher = at_look(model or load_patcher(), look)
        (color, _), (visible, alpha) = split_alpha(image), split_alpha(source)
        color, size = color.clamp(0, 1), (color.shape[-2], color.shape[-1])
        managed, host = ManagedModel(patcher, size), ComfyHost(patcher.load_device)
        turns = in_turn(progress(), len(color) * runs_of_map(managed.method))

        def map_one(result: Tensor, lr: Tensor) -> Tensor:
            def again(*, realism: float | None = None, seed: int = 0) -> Tensor:
                return upscale(
                    managed, lr, look=look, realism=realism, seed=seed, size=size, wrap=wrap, host=host,
                    progress=next(turns),
                )  # fmt: skip

            return map_invention(again, managed.method, result, lr, wrap=wrap)

        lrs = fill_transparent(visible, alpha, wrap).clamp(0, 1)
        invented = batch_of(len(color), (map_one(result, lr) for result, lr in pairs(color, lrs)))
        heat = join_alpha(heat_picture(color, invented))
        return io.NodeOutput(given_out(invented[:, 0]), heat, invented.mean().item())
