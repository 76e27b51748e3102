"""Flow Map Sampler."""

from comfy_api.latest import io
from torch import Tensor

from ..flowmapsr_core import UserError
from ..flowmapsr_core.codecs import FrozenVAE
from ..flowmapsr_core.codecs.probe import differ, probe
from ..flowmapsr_core.method.looks import Look
from ..flowmapsr_core.upscaling.pipeline import MAX_SEED, upscale_latent
from ..flowmapsr_core.upscaling.settings import MAX_GUIDANCE, warn_of_unlearned
from .comfyui.codec import ComfyCodec
from .comfyui.host import ComfyHost
from .comfyui.images import PIXEL_SIZE, from_mask, given_out, split_alpha
from .comfyui.loading import ModelType
from .comfyui.managed import ManagedModel
from .comfyui.progress import progress
from .comfyui.prompt import find_prompt
from .comfyui.schema import POSTERIOR_MEAN, advanced, make_schema
from .comfyui.wrap import CHOICES, NO_WRAP, TOOLTIP, wrap_of

SMALLEST = 8  # pixels a side


class Sampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make_schema(
            node_id="FlowMapSR_Sampler",
            display_name="Flow Map Sampler",
            category="image/upscaling/FlowMapSR",
            description="Restores detail in an image that was resized to its final size; gives a latent to decode.",
            search_aliases=["ksampler", "upscaler", "super resolution", "restore", "flow map"],
            inputs=[
                ModelType.Input("model", tooltip="From Load FlowMapSR Model or FlowMapSR LoRA."),
                io.Image.Input(
                    "image", tooltip="Low-resolution images at their final size: upscaled of Load Low-Res Image."
                ),
                io.Combo.Input(
                    "steps",
                    options=[POSTERIOR_MEAN, "1", "2", "4", "8", "16"],
                    default="2",
                    tooltip="Network evaluations: more add detail. posterior mean: one, closest to the source.",
                ),
                io.Float.Input(
                    "guidance",
                    default=2.0,
                    min=1.0,
                    max=MAX_GUIDANCE,
                    step=0.1,
                    tooltip="How strongly the prompt acts: 1 is none, more is crisper. Costs no time.",
                ),
                advanced(
                    io.Int.Input(
                        "tile",
                        default=0,
                        min=0,
                        max=16384,
                        step=64,
                        tooltip="Longest side of a tile in output pixels. 0 chooses by the free memory.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "overlap",
                        default=0,
                        min=0,
                        max=4096,
                        step=8,
                        tooltip="Pixels that blended tiles share. 0 chooses. Models that tile exactly ignore it.",
                    )
                ),
                advanced(
                    io.String.Input(
                        "prompt",
                        default="",
                        multiline=True,
                        tooltip="A prompt of your own, encoded with clip. Empty: the one the model was trained with.",
                    )
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="For a model of VAE latents that brings no VAE: the one of its latents.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="SDXL's text encoders, for a prompt of your own."),
                io.Conditioning.Input(
                    "positive", optional=True, tooltip="Instead of clip and prompt: from CLIP Text Encode with SDXL."
                ),
                io.Float.Input(
                    "realism",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.005,
                    optional=True,
                    tooltip="0 is closest to the source, as posterior mean among the steps; 1 has most detail.",
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
                io.Mask.Input(
                    "realism_mask",
                    optional=True,
                    tooltip="White takes realism, black 0. As large as the image is, or was before it was resized.",
                ),
                io.Combo.Input("wrap", options=CHOICES, default=NO_WRAP, optional=True, tooltip=TOOLTIP),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="For Exact Tiled VAE Decode or VAE Decode.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        image: Tensor,
        steps: str,
        guidance: float,
        tile: int,
        overlap: int,
        prompt: str = "",
        vae=None,
        clip=None,
        positive=None,
        realism: float = 1.0,
        seed: int = 0,
        realism_mask: Tensor | None = None,
        wrap: str = NO_WRAP,
    ) -> io.NodeOutput:
        color, _ = split_alpha(image)
        height, width = color.shape[-2:]
        if min(height, width) < SMALLEST:
            raise UserError(f"the image is {width}x{height} pixels; the smallest is {SMALLEST}x{SMALLEST}")
        embedding = find_prompt(model.model, prompt, clip, positive)
        managed = ManagedModel(model, (height, width), find_codec(model.attachments["model"].codec, vae), embedding)
        count, share = (1, 0.0) if steps == POSTERIOR_MEAN else (int(steps), realism)
        settings = Look(count, guidance, 0, share)
        warn_of_unlearned(managed, settings)
        latent = upscale_latent(
            managed, color, settings, realism_mask=from_mask(realism_mask, color), seed=seed, tile=tile or None,
            overlap=overlap, wrap=wrap_of(wrap), host=ComfyHost(model.load_device), progress=progress(),
        )  # fmt: skip
        if isinstance(managed.codec, FrozenVAE):
            config = managed.codec.config
            latent = latent / config.scaling_factor + config.shift_factor  # as VAE nodes have them
        return io.NodeOutput({"samples": given_out(latent), PIXEL_SIZE: (height, width)})


def find_codec(codec, vae) -> ComfyCodec | None:
    """The connected VAE in the place of the model's codec; None without one, or where the model needs none."""
    if vae is None or not isinstance(codec, ComfyCodec):
        return None
    connected = ComfyCodec(codec.config, vae)
    if codec.config.probe and differ(codec.config.probe, probe(connected)):
        raise UserError(
            "the VAE makes other latents than this model was trained on; connect SDXL's, or the model's own"
        )
    return connected
