"""A model of several steps for the tests of the nodes, of the size that recipes/built-in.toml trains."""

import torch


def save_local(folder):
    """Write ``local.safetensors``, 11 MiB, into a folder: a LocalNet whose random weights change pictures little."""
    from flowmapsr.flowmapsr_core import save_checkpoint
    from flowmapsr.flowmapsr_core.codecs import PixelCodec
    from flowmapsr.flowmapsr_core.model import FlowMap, Model
    from flowmapsr.flowmapsr_core.networks import LocalNet

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = Model(FlowMap(LocalNet()), PixelCodec())
    with torch.no_grad():
        for parameter in model.flow.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        model.network.head_output.weight.mul_(4)
    save_checkpoint(model, folder / "local.safetensors")
    return folder / "local.safetensors"
