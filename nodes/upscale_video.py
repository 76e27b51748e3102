"""FlowMapSR Upscale Video."""

import torch
from comfy_api.latest import InputImpl, io
from torch import Tensor

from ..flowmapsr_core import upscale
from ..flowmapsr_core.method.looks import LOOKS
from ..flowmapsr_core.upscaling.pipeline import MAX_SCALE, MAX_SEED, output_size
from ..flowmapsr_core.upscaling.remake import MODEL_KEYS
from .comfyui.host import ComfyHost
from .comfyui.loading import ModelType
from .comfyui.progress import frames
from .comfyui.schema import make_schema
from .comfyui.upscale_models import ready
from .comfyui.video import clip_of, making_of


class UpscaleVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlowMapSR_UpscaleVideo",
            display_name="FlowMapSR Upscale Video",
            category="image/upscaling",
            description="Upscales a video 1x to 8x, frame by frame, in the memory of one; the sound stays as it is.",
            search_aliases=["video upscaler", "video super resolution", "enhance video"],
            inputs=[
                io.Video.Input("video", tooltip="Its sound, frame rate and colours are kept."),
                io.Float.Input(
                    "factor", default=2.0, min=1.0, max=MAX_SCALE, step=0.05, tooltip="Output side / input side."
                ),
                io.Combo.Input(
                    "look",
                    options=list(LOOKS),
                    default="balanced",
                    tooltip="faithful: closest to the source, without LoRAs. vivid: most detail.",
                ),
                ModelType.Input("model", optional=True, tooltip="The built-in model if nothing is connected."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    optional=True,
                    tooltip="Of the noise that some models start from, the same in all frames.",
                ),
                io.Boolean.Input(
                    "temporal",
                    default=False,
                    optional=True,
                    tooltip="Steadies each frame by those beside it, against flicker. Needs OpenCV: "
                    "pip install opencv-python-headless.",
                ),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="H.264, or H.265 for more than 8 bits.")],
        )

    @classmethod
    def execute(
        cls, video, factor: float, look: str, model=None, seed: int = 0, temporal: bool = False
    ) -> io.NodeOutput:
        clip = clip_of(video)
        frame = torch.empty(1, 3, *clip.size, device="meta")
        size = output_size(frame, factor, None)
        with ready(model, None, look, frame, size) as (managed, device):
            host = ComfyHost(device)

            def enlarge(picture: Tensor, size: tuple[int, int]) -> Tensor:
                return upscale(managed, picture, look=look, seed=seed, size=size, host=host)

            record = {name: managed.info.get(key) for name, key in MODEL_KEYS.items()} | {"look": look, "seed": seed}
            if managed.patcher.patches:
                record["loras"] = str(managed.patcher.patches_uuid)
            making = making_of(clip, size, record, temporal)
            if not making.target.exists():
                making.begin()
                making.run(making.parts.missing, enlarge, frames(len(clip.stamps)))
                making.finish()
        return io.NodeOutput(InputImpl.VideoFromFile(str(making.target)))
