"""The machine as ComfyUI manages it: its flags, its lists of odd cards, its memory and its cancel button."""

from collections.abc import Sequence

import comfy.model_management as management
import torch
from comfy.cli_args import args

from ...flowmapsr_core.upscaling.host import TorchHost


class ComfyHost:
    """The device that ComfyUI computes on, or another of its devices.

    It answers as :class:`flowmapsr.flowmapsr_core.upscaling.host.Host` asks.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or management.get_torch_device()

    def compute_dtype(self, supported: Sequence[torch.dtype]) -> torch.dtype:
        """What ComfyUI would take for a network of its own; on a CPU, unless told, what the core takes."""
        order = [dtype for dtype in (torch.bfloat16, torch.float16, torch.float32) if dtype in supported]
        chosen = management.unet_dtype(self.device, supported_dtypes=order)
        if chosen not in supported:  # a flag for weights of 8 or 64 bits
            chosen = management.unet_manual_cast(chosen, self.device, order) or torch.float32
        told = args.force_fp32 or args.fp32_unet
        if chosen == torch.float32 and management.is_device_cpu(self.device) and not told:
            return TorchHost(self.device).compute_dtype(supported)
        return chosen

    def free_memory(self) -> int:
        return management.get_free_memory(self.device)

    def is_out_of_memory(self, error: BaseException) -> bool:
        """As the core, and as ComfyUI, which knows errors of some accelerators."""
        known = getattr(management, "is_oom", lambda error: isinstance(error, management.OOM_EXCEPTION))
        return TorchHost(self.device).is_out_of_memory(error) or known(error)

    def check_cancelled(self) -> None:
        management.throw_exception_if_processing_interrupted()
