"""The machine that the work is done on. All that is asked of it is asked here; ComfyUI answers for itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ..errors import UserError
from ..model import Precision
from ..names import DTYPES as DTYPE_NAMES
from .memory import free_memory, is_out_of_memory

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}


class Host(Protocol):
    """What upscaling asks of the machine.

    Attributes:
        device: where the work is done.
    """

    @property
    def device(self) -> torch.device: ...

    def compute_dtype(self, supported: Sequence[torch.dtype]) -> torch.dtype:
        """The fastest good precision of those that a network supports."""
        ...

    def free_memory(self) -> int:
        """Bytes that can be allocated on the device now."""
        ...

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an error says that memory ran out. Free what its traceback holds before going on."""
        ...

    def check_cancelled(self) -> None:
        """Raise whatever ends the work if the user has cancelled it; called after every tile and band."""
        ...


@dataclass(frozen=True)
class TorchHost:
    """A device as torch sees it."""

    device: torch.device

    def compute_dtype(self, supported: Sequence[torch.dtype]) -> torch.dtype:
        """bfloat16 where the device computes in it natively (about twice as fast, and the image itself stays in
        float32), else float32 on a CPU and float16 on a GPU; float32 if the network does not support that.
        """
        if self.device.type == "cpu":
            native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
            wanted = torch.bfloat16 if native else torch.float32
        elif self.device.type == "cuda":
            wanted = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        else:
            wanted = torch.float16
        return wanted if wanted in supported else torch.float32

    def free_memory(self) -> int:
        return free_memory(self.device)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return is_out_of_memory(error)

    def check_cancelled(self) -> None:
        """Nothing to do: Ctrl-C comes by itself."""


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


def find_dtype(name: str, host: Host) -> Precision:
    """``auto``, which the host chooses for a network, or a name of :data:`DTYPES`; :class:`UserError` for others."""
    if name != "auto" and name not in DTYPES:
        raise UserError(f"there is no dtype {name!r}; choose auto, {', '.join(DTYPES)}")
    return host.compute_dtype if name == "auto" else DTYPES[name]
