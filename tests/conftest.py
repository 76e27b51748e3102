"""Loads this checkout as the package ``flowmapsr``, whatever its folder is called and whatever is installed."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: a thread each, also of what they start
    os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent

spec = importlib.util.spec_from_file_location("flowmapsr", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
sys.modules["flowmapsr"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["flowmapsr"])


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; a test of it is skipped where it, or playwright, is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        try:
            running = driver.chromium.launch(executable_path=shutil.which("chromium"))
        except playwright.Error as error:
            pytest.skip(f"Chromium does not start: {error}")
        yield running
        running.close()


@pytest.fixture
def small_model():
    """A LocalNet of the built-in's shape with few channels and weights that are not zero."""
    from flowmapsr.flowmapsr_core.codecs import PixelCodec
    from flowmapsr.flowmapsr_core.model import FlowMap, Model
    from flowmapsr.flowmapsr_core.networks import LocalNet, LocalNetConfig

    torch.manual_seed(0)
    config = LocalNetConfig(
        widths=(8, 12, 16),
        encoder_blocks=(0, 1, 1),
        decoder_blocks=(1, 1),
        head_width=4,
        condition_dim=16,
        prompt_dim=8,
    )
    model = Model(FlowMap(LocalNet(config)), PixelCodec())
    with torch.no_grad():
        for parameter in model.flow.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.flow.requires_grad_(False).eval()
    return model


@pytest.fixture
def set_lora_scale():
    """Multiplies the change of a network's LoRA, as it is being trained, by a scale; 0 is the base model exactly."""
    from peft.tuners.lora import LoraLayer

    def set_scale(model, scale):
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                layer.set_scale("default", scale)

    return set_scale


@pytest.fixture
def photo():
    """Something like a photograph (1, 3, 90, 122): smooth shading, edges and fine texture, in [0, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 90), torch.linspace(0, 1, 122), indexing="ij")
    shading = torch.stack([x, y, (x + y) / 2])
    edges = ((x * 7).floor() + (y * 5).floor()) % 2
    texture = torch.randn(3, 90, 122, generator=torch.Generator().manual_seed(1)) * 0.05
    return (0.5 * shading + 0.3 * edges + 0.1 + texture).clamp(0, 1)[None]


RECIPE = """
stages = [
  { kind = "flow-matching", steps = 2 },
  { kind = "self-distillation", steps = 2 },
  { kind = "guided", steps = 2 },
]
[model.network]
type = "LocalNet"
widths = [8, 8]
encoder_blocks = [0, 1]
decoder_blocks = [1]
head_width = 4
condition_dim = 16
prompt_dim = 4
[model.codec]
type = "PixelCodec"
[[data.budgets]]
side = 64
batch = 4
[degrade]
presets = { flowmapsr = 1, real-esrgan = 1 }
factor = [2, 4]
[times]
jumps = 0.5
[guidance]
negative = 0.4
[output]
every = 2
title = "Tiny"
tracker = "none"
"""


@pytest.fixture
def photos(tmp_path):
    """A folder tree with three photographs and a file that is none."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(3):
        coarse = Image.fromarray(random.integers(0, 256, (24, 36, 3), dtype=np.uint8))
        coarse.resize((540, 360)).save(folder / ("more" if index else ".") / f"{index}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def recipe_file(tmp_path):
    """A recipe for a tiny network and a few steps."""
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path
