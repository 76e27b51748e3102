import pytest
import torch
import torch.nn.functional as F
from flowmapsr.flowmapsr_core.images import resize as module
from flowmapsr.flowmapsr_core.images.resize import RESIZE_MODES, resize
from live_memory import LiveMemory


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_a_device_that_cannot_resize_all_leaves_it_to_the_cpu(mode, monkeypatch):
    """The device is torch's "meta", played as if it were Apple's."""
    interpolate, used = F.interpolate, []

    def keep_device(image, *arguments, **keywords):
        used.append(image.device.type)
        return interpolate(image, *arguments, **keywords)

    monkeypatch.setattr(module, "ON_CPU", ("meta",))
    monkeypatch.setattr(F, "interpolate", keep_device)
    with LiveMemory("meta"):
        resized = resize(torch.zeros(1, 3, 7, 9, device="meta"), (5, 13), mode)
    assert used == ["cpu"]
    assert resized.shape == (1, 3, 5, 13)
    assert resized.device.type == "meta"


def test_apples_gpus_are_among_them():
    assert "mps" in module.ON_CPU
