import pytest
import torch
import torch.nn.functional as F
from flowmapsr.flowmapsr_core.images import resize as module
from flowmapsr.flowmapsr_core.images.resize import RESIZE_MODES, resize, shrink_back
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


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 64), (37, 16)])
def test_an_enlarged_image_is_shrunk_back_to_what_it_was(height, width, generator):
    image = torch.rand(2, 3, height, width, generator=generator)
    for factor in (2, 4):
        enlarged = resize(image, (factor * height, factor * width))
        assert torch.allclose(shrink_back(enlarged, factor), image, atol=1e-5)


def test_of_any_other_image_no_shrunk_one_enlarges_to_a_closer_one(generator):
    image = torch.rand(1, 1, 24, 32, generator=generator)
    shrunk = shrink_back(image, 4)
    distance = (resize(shrunk, (24, 32)) - image).norm()
    for _ in range(20):
        other = shrunk + 0.01 * torch.randn(shrunk.shape, generator=generator)
        assert (resize(other, (24, 32)) - image).norm() > distance
