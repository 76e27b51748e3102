"""Checkpoints: one safetensors file with everything needed to rebuild a model.

Tensors are ``network.*`` and ``prompts.positive`` / ``prompts.negative``. The metadata holds the format and its
version, the configuration as JSON, and ModelSpec keys (title, author, license, hash). Nothing is unpickled.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import UserError
from .model import FlowMap

FORMAT = "flowmapsr"
FORMAT_VERSION = 1
BUILT_IN = "built-in"
BUILT_IN_FILE = Path(__file__).parent / "models" / "flowmapsr-local.safetensors"


def save_checkpoint(model: FlowMap, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a model to ``path`` (through a temporary name), its weights in ``dtype``."""
    tensors = {name: _packed(tensor.detach().to("cpu", dtype)) for name, tensor in model.state_dict().items()}
    info = {key: str(value) for key, value in model.info.items() if key != "training"}
    metadata = {
        # first: of a loaded model, info holds the hash of the weights it was loaded with
        **{f"modelspec.{key}": value for key, value in info.items()},
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "config": json.dumps(model.config()),
        "training": json.dumps(model.info.get("training", {})),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"flowmapsr/{type(model.network).__name__}",
        "modelspec.implementation": "flowmapsr",
        "modelspec.hash_sha256": "0x" + weights_hash(tensors),
    }
    write_safetensors(tensors, path, metadata)


def write_safetensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a file under a temporary name and rename it, so that ``path`` is never half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, metadata)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _packed(tensor: Tensor) -> Tensor:
    """Row-major copy; ``contiguous()`` alone keeps channels-last strides of 1x1 kernels."""
    return tensor.contiguous().flatten().reshape(tensor.shape)


def weights_hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names and bytes of the tensors, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_metadata(path: Path) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Metadata and tensor shapes of a safetensors file; :class:`UserError` saying what else the file is."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a FlowMapSR checkpoint (.safetensors)")
    with path.open("rb") as file:
        start = file.read(9)
    json_header = start[8:9] == b"{"  # a safetensors file; the length before it may begin with any byte
    if not json_header and start.startswith((b"PK", b"\x80")):
        raise UserError(f"{path} is a pickled PyTorch file, which is never loaded; give the .safetensors version")
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, shapes
    except (SafetensorError, OSError) as error:
        if json_header:
            raise UserError(f"{path} is truncated or damaged ({error}); download or copy it again") from error
        raise UserError(f"{path} is not a safetensors file; give a FlowMapSR checkpoint") from error


def describe(path: Path) -> dict[str, Any]:
    """What a file is, as JSON data: kind, configuration, ModelSpec keys, number of weights and their dtypes.

    ``kind`` is ``checkpoint``, ``lora`` (then with its ``ranks``) or ``other``. Raises :class:`UserError` if the file
    is no safetensors file.
    """
    metadata, shapes = read_metadata(path)
    with safe_open(path, framework="pt") as file:
        dtypes = sorted({file.get_slice(name).get_dtype() for name in shapes})
    downs = [name for name in shapes if name.endswith((".lora_down.weight", ".lora_A.weight"))]
    ranks = sorted({shapes[name][0] for name in downs})
    kind, more = "other", {}
    if metadata.get("format") == FORMAT:
        kind = "checkpoint"
    elif ranks:
        kind, more = "lora", {"ranks": ranks}
    decoded = {key: json.loads(text) if key in ("config", "training") else text for key, text in metadata.items()}
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


def load_model(
    name_or_path: str | Path = BUILT_IN, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> FlowMap:
    """Load a model for inference.

    Args:
        name_or_path: ``built-in`` or the path of a checkpoint.
        device, dtype: where and in what precision its weights are kept and evaluated.

    Raises:
        UserError: the file is missing, damaged, of another kind, or its tensors do not fit its configuration.
    """
    path = BUILT_IN_FILE if str(name_or_path) == BUILT_IN else Path(name_or_path)
    metadata, shapes = read_metadata(path)
    model = _empty_model(path, metadata, shapes)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in shapes}
    model.load_state_dict(tensors, assign=True)
    model.requires_grad_(False)
    return model.to(device, dtype).to(memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]


def _empty_model(path: Path, metadata: dict[str, str], shapes: dict[str, list[int]]) -> FlowMap:
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path} is not a FlowMapSR checkpoint: it holds {len(shapes)} tensors ({', '.join(sorted(shapes)[:2])}, "
            f"...) and no FlowMapSR metadata; 'flowmapsr inspect' says what it is"
        )
    version = metadata.get("format_version", "")
    if version != str(FORMAT_VERSION):
        raise UserError(f"{path} has checkpoint format {version}, this FlowMapSR reads {FORMAT_VERSION}; update it")
    info = {key.removeprefix("modelspec."): value for key, value in metadata.items() if key.startswith("modelspec.")}
    try:
        info["training"] = json.loads(metadata.get("training", "{}"))
        with torch.device("meta"):
            model = FlowMap.from_config(json.loads(metadata.get("config", "{}")), info)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} has a configuration this FlowMapSR cannot build ({error}); update it") from error
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = [
        *(f"{name} is missing" for name in expected.keys() - shapes.keys()),
        *(f"{name} is unknown" for name in shapes.keys() - expected.keys()),
        *(
            f"{name} is {shapes[name]}, not {expected[name]}"
            for name in expected.keys() & shapes.keys()
            if shapes[name] != expected[name]
        ),
    ]
    if wrong:
        raise UserError(f"{path} does not fit its configuration: {_shortened(sorted(wrong))}; export it again")
    return model


def _shortened(items: list[str], most: int = 3) -> str:
    rest = len(items) - most
    return "; ".join(items[:most]) + (f"; and {rest} more" if rest > 0 else "")
