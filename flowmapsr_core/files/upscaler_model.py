"""Upscalers of the community as models: the chain does with them what it does with all others."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..codecs import PixelCodec
from ..errors import check
from ..method.looks import LOOKS, looks_with
from ..model import FlowMap, Model
from ..networks import CommunityNet
from .upscaler_file import check_upscaler, load_upscaler

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor

# one picture, whatever is asked for
ONE_PICTURE = looks_with({name: {"steps": 1, "guidance": 1.0, "realism": 0.0, "lora_scale": 1.0} for name in LOOKS})


def model_of_upscaler(upscaler: "ImageModelDescriptor", title: str, **info: Any) -> Model:
    """A model that paints an upscaler's picture of LR's own pixels, at its scale and no other; weights are not copied.

    That picture stays as it is unless a colour correction is asked for.

    ``title`` says which it is, to users and in pictures, and ``info`` what else goes into :attr:`.model.Model.info`.
    """
    scale = upscaler.scale
    info = {"title": title, "training": {"learned_guidance": False}, **info}
    flow = FlowMap(CommunityNet(upscaler)).requires_grad_(False).eval()
    return Model(flow, PixelCodec(scale), info, ONE_PICTURE, scale, scale, resampling="nearest", color="none")


def load_upscaler_model(path: Path, vae: object = None) -> Model | None:
    """The upscaler in a file, its name and hash in the model's ``info``; None if spandrel knows none like it.

    Raises :class:`UserError` as :func:`.upscaler_file.load_upscaler` and :func:`.upscaler_file.check_upscaler`, and
    where a VAE is given.
    """
    descriptor = load_upscaler(path)
    if descriptor is None:
        return None
    upscaler = check_upscaler(path, descriptor.float())
    check(vae is None, f"{path} works on pixels and needs no VAE; leave out --vae")
    return model_of_upscaler(upscaler, path.name, hash_sha256=_hash(path))


def describe_upscaler(path: Path) -> dict[str, Any] | None:
    """What an upscaler is, as JSON data; None if spandrel knows none like it.

    Raises :class:`UserError` as :func:`.upscaler_file.load_upscaler`.
    """
    descriptor = load_upscaler(path)
    if descriptor is None:
        return None
    weights = descriptor.model.state_dict().values()
    return {
        "kind": "upscaler",
        "architecture": descriptor.architecture.name,
        "purpose": descriptor.purpose,
        "scale": descriptor.scale,
        "channels": [descriptor.input_channels, descriptor.output_channels],
        "tags": descriptor.tags,
        "hash_sha256": _hash(path),
        "weights": sum(weight.numel() for weight in weights),
    }


def _hash(path: Path) -> str:
    """SHA-256 of a file, by which others name it too."""
    return "0x" + hashlib.sha256(path.read_bytes()).hexdigest()
