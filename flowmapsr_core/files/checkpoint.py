"""Checkpoints: one safetensors file with everything needed to rebuild a model.

Tensors are ``network.*``, ``prompts.positive`` / ``prompts.negative`` and, if the codec has weights, ``codec.vae.*``:
these may be left out, and are then taken from a VAE of the user's. The metadata holds the format and its
version, the configuration as JSON, and ModelSpec keys (title, author, license, hash). Nothing is unpickled.
"""

import hashlib
import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import replacing
from ..codecs import Codec, FrozenVAE, VAECodec
from ..codecs.probe import differ
from ..errors import UserError, WithoutVAE
from ..model import CODEC, USED_AS_IT_IS, Model, Precision
from .diffusers_folder import load_folder
from .safetensors_file import FORMAT, is_checkpoint, is_pickled, misfit, read_metadata
from .sources import BUILT_IN, find_model, vae_beside
from .upscaler_model import describe_upscaler, load_upscaler_model
from .vae_file import load_vae

FORMAT_VERSION = 1


def save_checkpoint(model: Model, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a model to ``path`` (through a temporary name), its weights in ``dtype``.

    A codec's weights are written too, unless it has none (they are on torch's meta device).
    """
    tensors = {
        name: _packed(tensor.detach().to("cpu", dtype))
        for name, tensor in model.tensors().items()
        if not (name.startswith(CODEC) and tensor.is_meta)
    }
    flow = {name: tensor for name, tensor in tensors.items() if not name.startswith(CODEC)}
    metadata = {
        **model_spec(model.info, type(model.network).__name__, tensors),
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(model.config()),
        # without the codec's, and the same for a copy in bfloat16
        "modelspec.flow_hash": "0x" + weights_hash(flow, torch.bfloat16),
    }
    write_safetensors(tensors, path, metadata)


def write_safetensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a file under a temporary name first; raises ``OSError`` if it cannot be written."""
    with replacing(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode  # safetensors lets the owner alone read its files
        try:
            save_file(tensors, partial, metadata)
            partial.chmod(mode)
        except SafetensorError as error:  # its own for a full disk
            raise OSError(str(error)) from error


def _packed(tensor: Tensor) -> Tensor:
    """Row-major copy; ``contiguous()`` alone keeps channels-last strides of 1x1 kernels."""
    return tensor.contiguous().flatten().reshape(tensor.shape)


def model_spec(info: dict[str, Any], kind: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Metadata of a file of weights, in the keys of ModelSpec: what ``info`` says, what the file is, and its hash."""
    return {
        # first: of a loaded model, info holds the hash of the weights it was loaded with
        **{f"modelspec.{key}": str(value) for key, value in info.items() if key != "training"},
        "training": json.dumps(info.get("training", {})),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"flowmapsr/{kind}",
        "modelspec.implementation": "flowmapsr",
        "modelspec.hash_sha256": "0x" + weights_hash(tensors),
    }


def weights_hash(tensors: dict[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """SHA-256 over names and bytes of the tensors, in name order, rounded to ``dtype`` if that is given."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].to(dtype).flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def describe(path: Path) -> dict[str, Any]:
    """What a file is, as JSON data: kind, configuration, ModelSpec keys, number of weights and their dtypes.

    ``kind`` is ``checkpoint``, ``lora`` (then with its ``ranks``), ``upscaler`` (of the community, where spandrel is
    there to know it) or ``other``. Raises :class:`UserError` if the file is neither a safetensors file nor a pickled
    upscaler.
    """
    if is_pickled(path) and (upscaler := describe_upscaler(path)):
        return {"file": str(path), **upscaler}
    metadata, shapes = read_metadata(path, "a picture, a checkpoint, a LoRA or an upscaler")
    with safe_open(path, framework="pt") as file:
        dtypes = sorted({file.get_slice(name).get_dtype() for name in shapes})
    downs = [name for name in shapes if name.endswith((".lora_down.weight", ".lora_A.weight"))]
    ranks = sorted({shapes[name][0] for name in downs})
    kind, more = "other", {}
    if is_checkpoint(metadata):
        kind = "checkpoint"
    elif ranks:
        kind, more = "lora", {"ranks": ranks}
    elif find_spec("spandrel") and (upscaler := describe_upscaler(path)):
        kind, more = "upscaler", upscaler
    decoded = {key: _decoded(text) if key in ("config", "training") else text for key, text in metadata.items()}
    weights = sum(torch.Size(shape).numel() for shape in shapes.values())
    return {
        "file": str(path),
        "kind": kind,
        **more,
        **decoded,
        "weights": weights,
        "tensors": len(shapes),
        "dtypes": dtypes,
    }


def _decoded(text: str) -> Any:
    """JSON, or the text itself: other programs' metadata may have keys of the same names."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def load_model(
    name_or_path: str | Path = BUILT_IN,
    device: str | torch.device = "cpu",
    dtype: Precision = torch.float32,
    vae: Path | VAECodec | None = None,
) -> Model:
    """Load a model for inference.

    Args:
        name_or_path: ``built-in``, ``mini`` or ``base``, a checkpoint, a folder with one or in diffusers' layout,
            ``hub:OWNER/NAME``, see :func:`flowmapsr.flowmapsr_core.files.sources.find_model`; or an upscaler of
            the community, see :mod:`.upscaler_model`.
        device: where its weights are kept and evaluated.
        dtype: in what precision, or what chooses one of those that its network supports.
        vae: VAE to use in place of the model's, or because it has none, or its path, see
            :func:`.vae_file.load_vae`. A folder ``vae`` beside a checkpoint that has none is
            found by itself.

    Raises:
        UserError: the file is missing, damaged, of another kind, or its tensors do not fit its configuration; the VAE
            does not fit the checkpoint, or there is none; the network does not work in that precision.
    """
    path = find_model(name_or_path)
    if path.is_dir():
        model = load_folder(path, vae)
    else:
        upscaler = load_upscaler_model(path, vae) if _may_be_upscaler(path) else None
        model = upscaler or _load_file(path, vae)
    model.set_precision(dtype)
    model.flow.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model.to(device)


def load_shapes(name_or_path: str | Path) -> Model:
    """The model that :func:`load_model` would give, on torch's meta device: no weights are read, nor is a VAE beside.

    Raises :class:`UserError` as that does, and for an upscaler of the community, which has no such shapes.
    """
    path = find_model(name_or_path)
    if path.is_dir():
        return load_folder(path).to("meta")  # its files are read when the weights are used
    if is_pickled(path):
        raise UserError(f"{path} is no FlowMapSR checkpoint; {USED_AS_IT_IS}")
    metadata, shapes = read_metadata(path)
    model = _empty_model(path, metadata, shapes)
    if not vae_beside(path):
        model.codec = _with_own_vae(path, model.codec, _has_vae(shapes), None)
    return model


def _may_be_upscaler(path: Path) -> bool:
    """Whether a file holds weights by name, and is no checkpoint; :class:`UserError` if it is damaged or missing."""
    return is_pickled(path) or not is_checkpoint(read_metadata(path)[0])


def _load_file(path: Path, vae: Path | VAECodec | None) -> Model:
    metadata, shapes = read_metadata(path)
    model = _empty_model(path, metadata, shapes)
    has_vae = _has_vae(shapes)
    if not has_vae and isinstance(model.codec, FrozenVAE):
        vae = vae or vae_beside(path)
    model.codec = _with_own_vae(path, model.codec, has_vae, vae)  # before anything large is read
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in shapes if not (vae and name.startswith(CODEC))}
    model.take(tensors)
    return model


def check_format(path: Path, metadata: dict[str, str], shapes: dict[str, list[int]]) -> None:
    """Raise :class:`UserError` unless a file's metadata says that it is a checkpoint of the format read here."""
    if not is_checkpoint(metadata):
        raise UserError(
            f"{path} is not a FlowMapSR checkpoint: it holds {len(shapes)} tensors ({', '.join(sorted(shapes)[:2])}, "
            f"...) and no FlowMapSR metadata; 'flowmapsr inspect' says what it is. If that is an upscaler: "
            f"{USED_AS_IT_IS}"
        )
    version = metadata.get("format_version", "")
    if version != str(FORMAT_VERSION):
        raise UserError(f"{path} has checkpoint format {version}, this FlowMapSR reads {FORMAT_VERSION}; update it")


def _empty_model(path: Path, metadata: dict[str, str], shapes: dict[str, list[int]]) -> Model:
    check_format(path, metadata, shapes)
    info = {key.removeprefix("modelspec."): value for key, value in metadata.items() if key.startswith("modelspec.")}
    try:
        info["training"] = json.loads(metadata.get("training", "{}"))
        with torch.device("meta"):
            model = Model.from_config(json.loads(metadata.get("config", "{}")), info)
    except (TypeError, ValueError, AttributeError) as error:  # the last: a list or text in place of an object
        raise UserError(f"{path} has a configuration this FlowMapSR cannot build ({error}); update it") from error
    expected = {name: list(tensor.shape) for name, tensor in model.tensors().items()}
    if not _has_vae(shapes):
        expected = {name: shape for name, shape in expected.items() if not name.startswith(CODEC)}
    if wrong := misfit(expected, shapes):
        raise UserError(f"{path} does not fit its configuration: {wrong}; export it again")
    return model


def _has_vae(names: Iterable[str]) -> bool:
    return any(name.startswith(CODEC) for name in names)


def _with_own_vae(path: Path, codec: Codec, has_weights: bool, vae: Path | VAECodec | None) -> Codec:
    """The codec of a checkpoint, or the VAE that is to be used in its place if that fits."""
    if vae is None:
        if isinstance(codec, FrozenVAE) and not has_weights:
            raise WithoutVAE(path)
        return codec
    if not isinstance(codec, FrozenVAE):
        raise UserError(f"{path} works on pixels and needs no VAE; leave out --vae")
    other = vae if isinstance(vae, VAECodec) else load_vae(vae)
    facts = {"channels": (codec.channels, other.channels), "pixels per cell": (codec.factor, other.factor)}
    if type(other) is type(codec):  # a tiny VAE imitates the scaled latents of another, on a scale of its own
        for name in ("scaling_factor", "shift_factor"):
            facts[name] = getattr(codec.config, name), getattr(other.config, name)
    for name, (needed, found) in facts.items():
        if found != needed:
            raise UserError(f"{vae} does not fit {path}: {name} is {found}, not {needed}; give the model's own VAE")
    if isinstance(codec, VAECodec) and isinstance(other, VAECodec) and differ(codec.config.probe, other.config.probe):
        raise UserError(f"{vae} makes other latents than {path} was trained on; give the model's own VAE")
    return other
