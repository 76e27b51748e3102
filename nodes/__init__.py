"""ComfyUI nodes (V3 schema). The only folder that imports comfy."""

from comfy_api.latest import ComfyExtension, io

from .load_model import LoadModel
from .upscale import Upscale


class FlowMapSRExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadModel, Upscale]
