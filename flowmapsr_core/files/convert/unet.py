"""A :class:`UNet` with another UNet's weights.

What is new is the embedding of s, guidance and prompt, and its last layer is zero: the model's ``u(x, t, s)`` is the
source's output at x and time 1000 t, whatever s, guidance and prompt are.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ...codecs import VAECodec
from ...errors import UserError
from ...model import NEGATIVE_PROMPT, POSITIVE_PROMPT, FlowMap, Model
from ...networks import UNet, UNetConfig
from ...networks.parts import zero
from ..diffusers_folder import shapes_of
from ..prompts import encode_prompts
from ..safetensors_file import misfit
from ..vae_file import load_vae
from .source import Source

NEW = "class_embedding."


@dataclass(frozen=True)
class UNetSource(Source):
    """The weights of a UNet by the names that diffusers has for them, read from the disk when they are used."""

    prefix: ClassVar[str] = "unet."
    dtype: ClassVar[torch.dtype] = torch.bfloat16

    config: UNetConfig

    def make_model(self, vae: Path | None, text_encoder: Path | None, dtype: torch.dtype) -> Model:
        prompts = encode_prompts(text_encoder, [POSITIVE_PROMPT, NEGATIVE_PROMPT]) if text_encoder else None
        config = self.config if prompts is None else replace(self.config, prompt_dim=prompts.shape[1])
        codec = load_vae(vae) if vae else None
        with torch.device("meta"):
            network, codec = UNet(config), codec or VAECodec()
        unet = network.unet
        expected = {name: shape for name, shape in shapes_of(unet.state_dict()).items() if not name.startswith(NEW)}
        if wrong := misfit(expected, shapes_of(self.tensors)):
            raise UserError(f"{self.path} holds a UNet of another shape than SDXL's: {wrong}")
        try:
            model = Model(FlowMap(network), codec, self.info)
        except ValueError as error:
            raise UserError(f"{vae or self.path} cannot be used: {error}") from error
        taken = {name: tensor.to(dtype) for name, tensor in self.tensors.items()}
        unet.load_state_dict(taken, strict=False, assign=True)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)  # the same file every time
            embedding = cast(Any, unet.class_embedding)
            embedding.to_empty(device="cpu").linear_1.reset_parameters()
            zero(embedding.linear_2)
            for prompt, embedded in zip(
                model.flow.prompts.values(), [None, None] if prompts is None else prompts, strict=True
            ):
                prompt.copy_(torch.randn_like(prompt) if embedded is None else embedded)
        return model


def check_channels(path: Path, tensors: dict[str, Tensor]) -> None:
    """:class:`UserError` if a UNet takes more than a latent, as those for inpainting and with image conditions do."""
    taken, given = tensors["conv_in.weight"].shape[1], tensors["conv_out.weight"].shape[0]
    if taken != given:
        raise UserError(f"{path} holds a UNet that takes {taken} channels and gives {given}; FlowMapSR takes no more")
