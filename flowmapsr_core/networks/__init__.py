"""Networks that predict the average velocity, by the name a checkpoint stores.

Each is called as ``network(x, t, s, prompt, guidance)`` and has a ``Config`` dataclass, ``lora_targets``, ``channels``,
``stride`` and ``receptive_radius``. A new one is a file here and a line below.
"""

from .localnet import LocalNet, LocalNetConfig

NETWORKS = {"LocalNet": LocalNet}

__all__ = ["NETWORKS", "LocalNet", "LocalNetConfig"]
