"""Which device and precision to use when nobody says."""

import torch

from ..errors import UserError
from ..names import DTYPES as DTYPE_NAMES

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}


def find_device(name: str = "auto") -> torch.device:
    """``auto`` (a GPU if there is one) or a torch device name; :class:`UserError` if it cannot be used."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"the device {name!r} cannot be used here; choose cpu, cuda, cuda:1 or mps") from error


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` or a name of :data:`DTYPES`.

    ``auto`` is bfloat16 where the device computes in it natively (about twice as fast, and the image itself stays in
    float32), else float32 on a CPU and float16 on a GPU.
    """
    if name != "auto":
        if name not in DTYPES:
            raise UserError(f"there is no dtype {name!r}; choose auto, {', '.join(DTYPES)}")
        return DTYPES[name]
    if device.type == "cpu":
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        return torch.bfloat16 if native else torch.float32
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16 if device.type == "cuda" else torch.float16
