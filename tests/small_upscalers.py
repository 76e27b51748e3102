"""Upscalers of the community, small and random, and the files that people have them in."""

import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.RCAN import RCAN
from spandrel.architectures.SwinIR import SwinIR
from torch import nn


def made(kind, **settings):
    """A random upscaler, every answer of which counts."""
    torch.manual_seed(0)
    model = kind(**settings).requires_grad_(False).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=1.2 * layer.weight[0].numel() ** -0.5)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1)
    return model


def compact(scale=4, **settings):
    return made(Compact, num_feat=8, num_conv=3, upscale=scale, **settings)


def esrgan(scale=4, **settings):
    return made(ESRGAN, num_filters=8, num_blocks=1, scale=scale, **settings)


def unshuffled(factor):
    """As Real-ESRGAN's x2plus (factor 2) and models that enlarge nothing (4)."""
    return esrgan(in_nc=3 * factor**2, shuffle_factor=factor)


def swinir(scale=2):
    """A transformer, which attends within windows of 8 pixels."""
    sizes = {"img_size": 16, "embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 8, "mlp_ratio": 2}
    return made(SwinIR, upscale=scale, upsampler="pixelshuffledirect", **sizes)


def rcan():
    """Convolutions, and weights for their channels that depend on means over the whole image."""
    model = made(RCAN, scale=2, n_resgroups=1, n_resblocks=2, n_feats=16, reduction=4)
    model.add_mean.weight.mul_(0.03)  # it computes in 255 steps, and what is out of range is cut off
    model.add_mean.bias.fill_(127)
    for name, weight in model.named_parameters():
        if "conv_du.0" in name:
            weight.mul_(0.02)
    return model


def save(model, path):
    if path.suffix == ".pth":
        torch.save({"params_ema": model.state_dict()}, path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path
