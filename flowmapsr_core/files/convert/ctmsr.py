"""CTMSR's own checkpoints: the one that its authors publish, and those that their training code writes.

Read off that code (github.com/LabShuHangGU/CTMSR): the names of its layers; that the weights' moving average lies
beside the weights themselves; and the noise, whose deviation is 1. A copy of it (github.com/Blazedengcy/GTASR, whose
checkpoints have the same layers) is under its authors' MIT licence; what the weights are under is for the page to say
that they are loaded from.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...codecs import PixelCodec
from ...errors import UserError
from ...method.methods import CTMSR
from ...model import FlowMap, Model
from ...networks import CTMSRNet, CTMSRNetConfig
from ...networks.ctmsrnet import FACTOR
from ..diffusers_folder import shapes_of
from ..layout import count
from ..safetensors_file import misfit
from .source import Source

AVERAGED, LAST = "params_ema", "params"  # the weights' moving average, and the weights themselves
LAYER = "model.map_layer0.weight"  # no other model has one of this name
CONSTANTS = ("relative_position_index", "resample_filter")  # what they have tables of, and we compute
# our names of layers and theirs
WHOLE = {
    "time.0": "map_layer0",
    "time.2": "map_layer1",
    "stem": "enc.{0}x{0}_conv",
    "head_norm": "dec.{0}x{0}_aux_norm",
    "head": "dec.{0}x{0}_aux_conv",
    "up1": "conv_up1",
    "up2": "conv_up2",
    "last": "conv_last",
}
ATTENTION = {
    "enter": "patch_embed.proj",
    "norm1": "blocks.0.norm1",
    "table": "blocks.0.attn.relative_position_bias_table",
    "qkv": "blocks.0.attn.qkv",
    "out": "blocks.0.attn.proj",
    "norm2": "blocks.0.norm2",
    "grow": "blocks.0.mlp.fc1",
    "shrink": "blocks.0.mlp.fc2",
    "leave": "patch_unembed.proj",
    "conv": "conv",
}


@dataclass(frozen=True)
class CTMSRSource(Source):
    """The weights of a network of CTMSR."""

    config: CTMSRNetConfig

    def make_model(self, vae: Path | None, text_encoder: Path | None, dtype: torch.dtype) -> Model:
        if vae or text_encoder:
            raise UserError(f"{self.path} is {self.kind}: it takes no VAE and reads no text; leave out both")
        with torch.device("meta"):
            network = CTMSRNet(self.config)
        network.load_state_dict({name: tensor.to(dtype) for name, tensor in self.tensors.items()}, assign=True)
        return Model(FlowMap(network, CTMSR(noise=1.0)), PixelCodec(FACTOR), self.info)


def weights_in(saved: dict[str, Any]) -> str | None:
    """Under which name a pickled file has the weights of CTMSR's network; None if it is another model's."""
    kinds = (name for name in (AVERAGED, LAST) if isinstance(saved.get(name), dict) and LAYER in saved[name])
    return next(kinds, None)


def read_ctmsr(path: Path, saved: dict[str, Any]) -> CTMSRSource:
    """The weights of CTMSR's network.

    Args:
        path: named in errors.
        saved: what the file holds, see :func:`weights_in`.

    Raises:
        UserError: a layer is missing, or of a network that :class:`CTMSRNet` is not.
    """
    chosen = weights_in(saved) or LAST
    weights: dict[str, Any] = saved[chosen]
    layers = {
        name: value for name, value in weights.items() if isinstance(value, Tensor) and not name.endswith(CONSTANTS)
    }
    sides = sorted({int(side) for name in layers for side in re.findall(r"^model\.enc\.(\d+)x", name)}, reverse=True)
    try:
        with torch.device("meta"):
            network = CTMSRNet(_config(layers, sides))
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{path} holds a network of another shape than CTMSR's ({error})") from error
    names = {name: their_name(name, sides) for name in network.state_dict()}
    expected = {names[name]: shape for name, shape in shapes_of(network.state_dict()).items()}
    if wrong := misfit(expected, shapes_of(layers)):
        raise UserError(f"{path} holds a network of another shape than CTMSR's: {wrong}")
    dropped = (*(kind for kind in saved if kind != chosen), *(name for name in weights if name not in layers))
    tensors = {name: layers[theirs] for name, theirs in names.items()}
    return CTMSRSource(path, "CTMSR's network", network.config, tensors, dropped=dropped)


def _config(layers: dict[str, Tensor], sides: list[int]) -> CTMSRNetConfig:
    """Shape of the network whose weights these are, by the sides of its levels in training."""
    first = f"model.enc.{sides[0]}x{sides[0]}_block"
    offsets, heads = layers[f"{first}0.swin_layer.{ATTENTION['table']}"].shape
    return CTMSRNetConfig(
        widths=tuple(len(layers[f"model.enc.{side}x{side}_block0.conv0.weight"]) for side in sides),
        blocks=count(layers, rf"{re.escape(first)}(\d+)\."),
        attention_width=len(layers[f"{first}0.swin_layer.{ATTENTION['enter']}.weight"]),
        heads=heads,
        window=(math.isqrt(offsets) + 1) // 2,
    )


def their_name(name: str, sides: list[int]) -> str:
    """What a tensor of :class:`CTMSRNet` is called in their files; levels are named by their side in training."""
    half, *rest = name.split(".")
    if half not in ("encoder", "decoder"):
        layer, part = name.rsplit(".", 1)
        return f"model.{WHOLE[layer].format(sides[0])}.{part}"
    level, block, *parts = rest
    if parts[0] == "attention":
        parts = ["swin_layer", ATTENTION[parts[1]], *parts[2:]]
    side = sides[int(level)]
    return f"model.{half[:3]}.{side}x{side}_{block}.{'.'.join(parts)}"
