"""Upscalers: any model of two architectures that spandrel recognises.

Of their weights the first convolution changes, as it is to look at the enlarged picture, see :mod:`.enlarged`, and the
last one, as pixels are in [-1, 1] here and not in [0, 1]. What is new, the modulation by t, s, guidance and prompt,
does nothing at the start: from time 1 u leads to the upscaler's picture, whatever s, guidance and prompt are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ...codecs import PixelCodec
from ...errors import UserError
from ...method.looks import LOOKS, looks_with
from ...model import FlowMap, Model
from ...networks import CompactNet, CompactNetConfig, RRDBNet, RRDBNetConfig
from ...networks.rrdbnet import CONVOLUTIONS, DENSE
from ..layout import count
from .enlarged import on_enlargement
from .source import Source

if TYPE_CHECKING:
    from spandrel import ModelDescriptor

Config: TypeAlias = CompactNetConfig | RRDBNetConfig
Tensors: TypeAlias = dict[str, Tensor]
# a second step would enlarge the picture of the first
ONE_STEP = looks_with({name: {"steps": 1, "guidance": 1.0} for name in LOOKS})
STEM, BASE = ("stem.weight", "stem.bias"), ("base.weight", "base.bias")


@dataclass(frozen=True)
class UpscalerSource(Source):
    """The weights of an upscaler."""

    config: Config

    def make_model(self, vae: Path | None, text_encoder: Path | None, dtype: torch.dtype) -> Model:
        if vae or text_encoder:
            raise UserError(f"{self.path} is {self.kind}: it takes no VAE and reads no text; leave out both")
        config = self.config
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)  # the same file every time
            flow = FlowMap(CompactNet(config) if isinstance(config, CompactNetConfig) else RRDBNet(config))
            for prompt in flow.prompts.values():
                prompt.normal_()
        flow.network.load_state_dict(flow.network.state_dict() | self.tensors)
        return Model(flow, PixelCodec(config.unshuffle), self.info, ONE_STEP, float(config.unshuffle))


def from_upscaler(path: Path, upscaler: "ModelDescriptor") -> UpscalerSource:
    """The weights of an upscaler; :class:`UserError`, with what it is, if no network here takes them."""
    kind = f"an x{upscaler.scale} upscaler ({upscaler.architecture.name})"
    weights = {name: tensor.double() for name, tensor in upscaler.model.state_dict().items()}
    read = READERS.get(upscaler.architecture.id)
    if read is None or any(".conv1x1." in name for name in weights):  # the latter are ESRGAN+'s
        raise UserError(f"{path} is {kind}, for which there is no network here; give an ESRGAN or a Compact model")
    channels = upscaler.input_channels, upscaler.output_channels
    if channels != (3, 3):
        raise UserError(f"{path} is {kind} from {channels[0]} to {channels[1]} channels; give one of colour pictures")
    config, tensors, output = read(weights, upscaler.scale)
    changed = (*STEM, *(name for name in tensors if name.startswith(output)))
    return UpscalerSource(path, kind, config, tensors, changed, new=BASE)


def _compact(weights: Tensors, scale: int) -> tuple[Config, Tensors, str]:
    """SRVGGNetCompact: what the convolutions paint is added to LR's pixels, each repeated."""
    layers = count(weights, r"body\.(\d+)\.") // 2 - 1
    names = {"stem": "body.0"}
    for index in range(layers + 1):
        names |= {
            f"layers.{index}.activation": f"body.{2 * index + 1}",
            f"layers.{index}.conv": f"body.{2 * index + 2}",
        }
    output = f"layers.{layers}.conv."
    repeated = torch.eye(3).repeat_interleave(scale**2, dim=0)[:, :, None, None]
    base, of_white = on_enlargement(F.pad(repeated, (1, 1, 1, 1)), scale)
    tensors = _taken(weights, names, scale, output) | dict(zip(BASE, (2 * base, 2 * of_white - 1), strict=True))
    return CompactNetConfig(scale, len(weights["body.0.weight"]), layers=layers), tensors, output


def _esrgan(weights: Tensors, scale: int) -> tuple[Config, Tensors, str]:
    """RRDBNet, which paints everything, in the names of its first version; some unshuffle LR's pixels first."""
    width, channels = weights["model.0.weight"].shape[:2]
    blocks = count(weights, r"model\.1\.sub\.(\d+)\.") - 1  # the last is a convolution
    last = count(weights, r"model\.(\d+)\.") - 1  # in between, doublings have three layers each
    names = {"stem": "model.0", "trunk": f"model.1.sub.{blocks}", "output": f"model.{last}"}
    names |= {f"head.{index}.conv": f"model.{layer}" for index, layer in enumerate((*range(3, last - 2, 3), last - 2))}
    names |= {
        f"blocks.{block}.dense.{dense}.convs.{index}": f"model.1.sub.{block}.RDB{dense + 1}.conv{index + 1}.0"
        for block in range(blocks)
        for dense in range(DENSE)
        for index in range(CONVOLUTIONS)
    }
    cell = scale * round((channels / 3) ** 0.5)
    growth = len(weights["model.1.sub.0.RDB1.conv1.0.weight"])
    tensors = _taken(weights, names, scale, "output.")
    tensors["output.bias"] -= 1
    tensors |= dict(zip(BASE, (torch.zeros(3 * cell**2, 3 * cell**2, 3, 3), torch.zeros(3 * cell**2)), strict=True))
    return RRDBNetConfig(cell, width, blocks=blocks, growth=growth), tensors, "output."


READERS: dict[str, Callable[[Tensors, int], tuple[Config, Tensors, str]]] = {"Compact": _compact, "ESRGAN": _esrgan}


def _taken(weights: Tensors, names: dict[str, str], scale: int, output: str) -> Tensors:
    """Weights by our names of layers; the first one sees enlarged pixels, what the last one paints is doubled."""
    tensors = {
        f"{name}.{part}": weights[f"{theirs}.{part}"]
        for name, theirs in names.items()
        for part in ("weight", "bias")
        if f"{theirs}.{part}" in weights
    }
    weight, of_white = on_enlargement(tensors["stem.weight"], scale)
    tensors |= {"stem.weight": weight, "stem.bias": tensors["stem.bias"] + of_white}
    return {name: 2 * tensor if name.startswith(output) else tensor for name, tensor in tensors.items()}
