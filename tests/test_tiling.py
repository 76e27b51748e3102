"""Where tiles lie, and blended ones against closed forms; that exact ones are exact is in test_network.py."""

import itertools

import pytest
import torch
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.method.flow import sample
from flowmapsr.flowmapsr_core.upscaling.tiling import BlendTiling, HaloTiling, tile_starts, tiling_for
from flowmapsr.flowmapsr_core.upscaling.tiling.blend import blend_windows

ONE, ZERO = torch.ones(1), torch.zeros(1)
SIZES = [(4, 4), (8, 100), (36, 64), (52, 76), (97, 61), (130, 33)]
OVERLAPS = [0, 4, 8, 16, 28]


def pointwise(x, t, s):
    """A velocity that sees nothing but its own cell."""
    return torch.sin(3 * x) * (1 + t - s) + torch.cos(x.flip(1))


def centred(x, t, s):
    """A velocity that sees the whole of its input, tile by tile of a stack."""
    return x - x.mean(dim=(2, 3), keepdim=True)


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("overlap", [0, 4, 12])
def test_equal_tiles_cover_and_share_the_overlap(stride, overlap):
    for tile, length in itertools.product(range(16, 40, 4), range(4, 120, stride)):
        starts = tile_starts(length, tile, stride, overlap)
        assert starts[0] == 0
        assert all(start % stride == 0 for start in starts)
        if tile >= length:
            assert starts == [0]
            continue
        assert starts[-1] == length - tile
        shared = [a + tile - b for a, b in itertools.pairwise(starts)]
        assert min(shared) >= overlap
        assert max(shared) - min(shared) <= stride
        assert len(starts) == -(-(length - overlap) // (tile - overlap))


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("size", SIZES)
def test_a_pointwise_velocity_is_as_untiled(generator, size, overlap):
    x = torch.randn(1, 3, *size, generator=generator)
    tiling = BlendTiling(32, overlap, 1, batch=3)
    assert all(0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]
               for top, left, bottom, right in tiling.boxes(*size))  # fmt: skip
    assert len({(bottom - top, right - left) for top, left, bottom, right in tiling.boxes(*size)}) == 1
    assert (tiling.velocity(pointwise)(x, ONE, ZERO) - pointwise(x, ONE, ZERO)).abs().max() < 1e-5
    assert (sample(tiling.velocity(pointwise), x, 4) - sample(pointwise, x, 4)).abs().max() < 1e-5


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("length", [33, 61, 90, 200])
def test_windows_sum_to_one_and_stay_flat_at_image_borders(length, overlap):
    starts = tile_starts(length, 32, 1, overlap)
    windows = blend_windows(starts, 32)
    total = torch.zeros(length)
    for start, window in zip(starts, windows, strict=True):
        total[start : start + 32] += window
    assert torch.allclose(total, torch.ones(length))
    assert windows.min() > 0
    alone = [start for start in range(length) if sum(a <= start < a + 32 for a in starts) == 1]
    assert alone[0] == 0
    assert alone[-1] == length - 1
    for start, window in zip(starts, windows, strict=True):
        own = torch.tensor([start <= cell < start + 32 for cell in alone])
        assert torch.equal(window[torch.tensor(alone)[own] - start], torch.ones(int(own.sum())))


@pytest.mark.parametrize("length", [4, 60, 132, 200, 388])
@pytest.mark.parametrize("tile", [4, 20, 64, 132])
@pytest.mark.parametrize("halo", [0, 8, 64])
def test_exact_tiles_all_read_the_same_shape(halo, tile, length):
    tiling, size = HaloTiling(tile, halo, 4), (length, 68)
    boxes = tiling.boxes(*size)
    reads = [tiling.reads(box, *size) for box in boxes]
    ((height, width),) = {(bottom - top, right - left) for top, left, bottom, right in reads}
    assert height <= min(tile + 2 * halo, length)
    assert width <= min(tile + 2 * halo, 68)
    kept = torch.zeros(size)
    for (top, left, bottom, right), read in zip(boxes, reads, strict=True):
        kept[top:bottom, left:right] += 1
        assert all(side % 4 == 0 for side in read)
        assert all(0 <= first <= max(start - halo, 0) for first, start in zip(read[:2], (top, left), strict=True))
        assert all(min(end + halo, side) <= last <= side
                   for last, end, side in zip(read[2:], (bottom, right), size, strict=True))  # fmt: skip
    assert torch.equal(kept, torch.ones(size))
    assert len(boxes) <= -(-length // tile) * -(-68 // tile)


def test_two_constant_tiles_meet_in_a_raised_cosine():
    """24 cells in two tiles of 16: 8 are shared, what is asked for (4) or not."""

    def of_tile(x, t, s):
        return (x[:, :, :, :1] > 0).float().expand_as(x)  # 0 on the left tile, 1 on the right one

    x = torch.arange(24.0).expand(1, 1, 16, 24)
    result = BlendTiling(16, 4, 1).velocity(of_tile)(x, ONE, ZERO)
    ramp = (1 - torch.cos(torch.pi * (torch.arange(8) + 0.5) / 8)) / 2
    expected = torch.cat([torch.zeros(8), ramp, torch.ones(8)])
    assert (expected.diff() >= 0).all()
    assert torch.allclose(result, expected.expand(1, 1, 16, 24), atol=1e-6)


def test_the_batch_is_only_about_speed(generator):
    x = torch.randn(1, 3, 52, 76, generator=generator)
    t, s = torch.ones(1), torch.zeros(1)
    results = []
    for batch in (1, 4, 5, 100):
        calls, seen = [], []

        def u(tiles, t_seen, s_seen, calls=calls):
            assert t_seen is t
            assert s_seen is s
            calls.append(len(tiles))
            return centred(tiles, t_seen, s_seen)

        tiling = BlendTiling(32, 8, 4, batch)
        keep = lambda box, part, velocity, time, seen=seen: seen.append((box, part, velocity))  # noqa: E731
        results.append(tiling.velocity(u, keep)(x, t, s))
        boxes = tiling.boxes(52, 76)
        assert len(boxes) == 2 * 3
        assert calls == [min(batch, 6 - done) for done in range(0, 6, batch)]
        assert [box for box, *_ in seen] == boxes
        for (top, left, bottom, right), part, velocity in seen:
            assert torch.equal(part, x[..., top:bottom, left:right])
            assert torch.allclose(velocity, centred(part, t, s), atol=1e-6)
    assert (results[0] - centred(x, t, s)).abs().max() > 1e-3  # such a velocity does depend on the tiles
    for result in results[1:]:
        assert torch.allclose(result, results[0], atol=1e-6)


@pytest.mark.parametrize("tile", [0, 76, 400])
def test_one_tile_is_the_untiled_evaluation(generator, tile):
    x = torch.randn(1, 3, 52, 76, generator=generator)
    assert torch.equal(BlendTiling(tile, 8, 4).velocity(centred)(x, ONE, ZERO), centred(x, ONE, ZERO))


def test_low_precision_is_blended_in_float32():
    x = torch.full((1, 1, 40, 40), 1 / 3, dtype=torch.bfloat16)
    result = BlendTiling(16, 8, 4).velocity(lambda x, t, s: x)(x, ONE, ZERO)
    assert result.dtype == x.dtype
    assert torch.equal(result, x)


def test_raising_from_on_tile_cancels(generator):
    calls = []

    def u(x, t, s):
        calls.append(len(x))
        return x

    def cancel(box, x, velocity, t):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BlendTiling(16, 4, 4, 2).velocity(u, cancel)(torch.randn(1, 3, 64, 64, generator=generator), ONE, ZERO)
    assert calls == [2]


def test_the_network_decides_which_tiling(small_model):
    network = small_model.network
    assert tiling_for(network, 30, 8) == HaloTiling(32, network.receptive_radius, network.stride)

    class Global:
        receptive_radius = None
        stride = 4

    assert tiling_for(Global(), 30, 7, 5) == BlendTiling(32, 8, 4, 5)
    assert tiling_for(Global(), 0, 8).boxes(20, 28) == [(0, 0, 20, 28)]
    with pytest.raises(UserError, match="overlap is 32 latent cells"):
        tiling_for(Global(), 32, 32)
