"""FlowMapSR: upscale photographs with flow maps. This folder is a ComfyUI node pack and the package ``flowmapsr``."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """ComfyUI's way in. The import waits until here: the core and the trainer do without ComfyUI."""
    from .nodes import FlowMapSRExtension

    return FlowMapSRExtension()
