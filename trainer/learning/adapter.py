"""LoRA training with ``peft``: a frozen network with small trainable layers beside its own."""

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ...flowmapsr_core.errors import UserError
from ...flowmapsr_core.model import FlowMap

ADAPTER = "default"


def add_lora(model: FlowMap, rank: int, alpha: float, targets: tuple[str, ...] = ()) -> list[nn.Parameter]:
    """Put a low-rank branch beside linear and convolution layers, in place; it starts at zero change.

    Args:
        model: everything it has is frozen.
        rank: channels between down and up, at least 1.
        alpha: the branch is multiplied by ``alpha / rank``.
        targets: last parts of the names of the layers; empty for the network's own choice, ``lora_targets``.

    Returns:
        The parameters to train.

    Raises:
        UserError: the network has no such layers, or the rank is not possible.
    """
    targets = targets or model.network.lora_targets
    model.requires_grad_(False)
    try:
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets)),  # pyright: ignore[reportArgumentType]
            nn.ModuleList([model.network]),  # which has no configuration, as peft below 0.18 would misread ours
            ADAPTER,
        )
    except ValueError as error:
        raise UserError(f"a LoRA of rank {rank} cannot be put on the layers {', '.join(targets)}: {error}") from error
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def lora_layers(model: FlowMap) -> dict[str, tuple[Tensor, Tensor]]:
    """Down (rank, in, *kernel) and up (out, rank, 1, ...) by layer name, as ``save_lora`` writes them."""
    weight = f"{ADAPTER}.weight"
    return {
        name: (layer.lora_A.get_parameter(weight), layer.lora_B.get_parameter(weight))
        for name, layer in model.network.named_modules()
        if isinstance(layer, LoraLayer)
    }
