"""Latent Bridge Matching: an SDXL-shaped UNet without text, trained as a bridge between two latents.

Read off the authors' code (github.com/gojasper/LBM, ``lbm_model.py``): with sigma = timestep / 1000, the interpolant
is ``sigma z_source + (1 - sigma) z_target``, the prediction's target is ``z_source - z_target``, and the sampler goes
from sigma = 1 to 0 by ``x += (sigma_next - sigma) prediction``. With our t = sigma, x1 = z_source (LR) and
x0 = z_target (HR), that is our interpolant, our velocity ``v = x1 - x0`` with our sign, and our step: nothing is to be
turned round. Their noise along the bridge is added between steps and is no part of the network.
"""

from pathlib import Path

from ..diffusers_folder import read_tensors, unet_config
from .unet import UNetSource, check_channels

PREFIX = "denoiser."


def read_lbm(path: Path, names: list[str]) -> UNetSource:
    """The UNet of an LBM checkpoint (a safetensors file); every size is in the weights, so its yaml is not needed."""
    tensors = read_tensors(path, PREFIX)
    config = unet_config(path, tensors)
    check_channels(path, tensors)
    dropped = tuple(name for name in names if not name.startswith(PREFIX))
    return UNetSource(path, "an LBM model", config, tensors, dropped=dropped)
