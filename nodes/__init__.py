"""ComfyUI nodes (V3 schema). The only folder that imports comfy.

Workflows and prompts that people have saved go on working: a node keeps its id, its inputs and outputs keep their
names, types and order, and what is new is optional and comes last (``FROZEN`` in ``tests/test_node_definitions.py``).
A node that cannot be so gets a new id. Where ``comfy_api.latest.io`` has ``NodeReplace``, the old one is registered as
replaced by it, in ``on_load`` of the extension below, as ``tests/test_comfyui_conventions.py`` does with a node that
was renamed; elsewhere it stays in the list of nodes, marked as deprecated.
"""

from comfy_api.latest import ComfyExtension, io

from .comfyui.versions import check_versions
from .compare import Compare
from .decode_tiled import DecodeTiled
from .degrade import Degrade
from .invention_map import InventionMap
from .load_lora import LoadLoRA
from .load_low_res import LoadLowRes
from .load_model import LoadModel
from .match_color import MatchColor
from .sampler import Sampler
from .save import Save
from .upscale import Upscale
from .upscale_video import UpscaleVideo


class FlowMapSRExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        check_versions()
        nodes = [LoadModel, LoadLoRA, LoadLowRes, Sampler, DecodeTiled, Upscale, MatchColor, Degrade, Compare]
        return [*nodes, InventionMap, Save, UpscaleVideo]
