import pytest
import torch
from flowmapsr.flowmapsr_core.images.metrics import ciede2000, color_difference, psnr_y

# from the test data published with "The CIEDE2000 Color-Difference Formula" (Sharma, Wu and Dalal 2005), table 1
PUBLISHED = [
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, 3.1571, -77.2803), (50, 0, -82.7485), 2.8615),
    ((50, 2.8361, -74.0200), (50, 0, -82.7485), 3.4412),
    ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
    ((50, 0, 0), (50, -1, 2), 2.3669),
    ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
    ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
    ((50, -0.001, 2.49), (50, 0.0009, -2.49), 4.8045),
    ((50, -0.001, 2.49), (50, 0.0011, -2.49), 4.7461),
    ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((50, 2.5, 0), (61, -5, 29), 22.8977),
    ((50, 2.5, 0), (56, -27, -3), 31.9030),
    ((50, 2.5, 0), (58, 24, 15), 19.4535),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


@pytest.mark.parametrize(("first", "second", "expected"), PUBLISHED)
def test_ciede2000_gives_the_published_values_both_ways(first, second, expected):
    first, second = (torch.tensor(x, dtype=torch.float64).reshape(1, 3, 1, 1) for x in (first, second))
    assert ciede2000(first, second).item() == pytest.approx(expected, abs=1e-4)
    assert ciede2000(second, first).item() == pytest.approx(expected, abs=1e-4)


def test_colour_difference_sees_a_cast_and_no_missing_detail(photo, generator):
    assert color_difference(photo, photo).tolist() == [0]
    noise = 0.05 * torch.randn(photo.shape, generator=generator)
    cast = photo + torch.tensor([0.05, 0, -0.05]).reshape(1, 3, 1, 1)
    assert color_difference(photo + noise, photo) < 0.5
    assert color_difference(cast, photo) > 2


def test_psnr_asks_no_device_for_float64(photo, monkeypatch):
    """As on Apple's GPUs: a tensor that is not on the CPU has no float64."""
    moved, double = [], torch.Tensor.double
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: moved.append(True) or self.clone())
    monkeypatch.setattr(torch.Tensor, "double", lambda self: double(self) if moved else pytest.fail("before cpu()"))
    assert psnr_y(photo, photo - 0.1).dtype == torch.float64
    assert len(moved) == 2
