"""Networks that predict the average velocity, by the name a checkpoint stores.

Each is built from its ``Config`` dataclass, kept as ``config``, and has

- ``embed(t, s, prompt, guidance)``: the conditioning vector (B, D), constant over an image;
- ``evaluate(x, condition)``: u (N, C, H, W) of states (N, inputs C, H, W) under the condition (N, D), or (1, D) for all
  of them; ``config.inputs`` images are stacked in a state, of two the second is LR;
- ``forward(x, t, s, prompt, guidance)``: one after the other;
- ``channels`` of its latents, ``stride`` (latent cells that sizes must be multiples of), ``receptive_radius`` (how far
  an output cell sees, None for everywhere), ``floats_per_cell`` (numbers alive at the peak of an evaluation);
- ``dtypes`` that it computes in, ``storage_dtypes`` of fewer bits that its large weights may be kept in besides;
- ``lora_targets`` (layers that a LoRA changes unless told) and ``checkpoint_activations()`` for training.

A new one is a file here and a line below. :class:`CommunityNet` is no checkpoint's: it wraps what others have trained.
"""

from typing import TypeAlias

from .communitynet import CommunityNet
from .compactnet import CompactNet, CompactNetConfig
from .ctmsrnet import CTMSRNet, CTMSRNetConfig
from .flops import flops
from .localnet import LocalNet, LocalNetConfig
from .rrdbnet import RRDBNet, RRDBNetConfig
from .unet import PRESETS, UNet, UNetConfig

Network: TypeAlias = LocalNet | UNet | CompactNet | RRDBNet | CTMSRNet | CommunityNet
NETWORKS = {
    "LocalNet": LocalNet,
    "UNet": UNet,
    "CompactNet": CompactNet,
    "RRDBNet": RRDBNet,
    "CTMSRNet": CTMSRNet,
}

__all__ = [
    "NETWORKS",
    "PRESETS",
    "CTMSRNet",
    "CTMSRNetConfig",
    "CommunityNet",
    "CompactNet",
    "CompactNetConfig",
    "LocalNet",
    "LocalNetConfig",
    "Network",
    "RRDBNet",
    "RRDBNetConfig",
    "UNet",
    "UNetConfig",
    "flops",
]
