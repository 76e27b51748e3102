"""How an image is cut so that it fits the memory."""

import logging
from dataclasses import replace

import pytest
import torch
from flowmapsr.flowmapsr_core import upscale
from flowmapsr.flowmapsr_core.codecs import PixelCodec, VAECodec
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import PRESETS, UNet
from flowmapsr.flowmapsr_core.upscaling.host import TorchHost
from flowmapsr.flowmapsr_core.upscaling.memory import is_out_of_memory
from flowmapsr.flowmapsr_core.upscaling.plan import SMALLEST_TILE, describe, make_plan, sampling_flops
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

CPU, CUDA = TorchHost(torch.device("cpu")), TorchHost(torch.device("cuda"))
GIB = 2**30


@pytest.fixture
def memory(monkeypatch):
    """Sets the free memory, in bytes."""

    def free(size):
        monkeypatch.setattr(TorchHost, "free_memory", lambda self: size)

    return free


@pytest.fixture
def small_unet():
    torch.manual_seed(0)
    model = Model(FlowMap(UNet(replace(PRESETS["tiny"], channels=12))), PixelCodec())
    with torch.no_grad():
        for parameter in model.flow.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model.flow.requires_grad_(False).eval()
    return model


@pytest.fixture(scope="module")
def xl():
    """The largest model, without its weights."""
    with torch.device("meta"):
        model = Model(FlowMap(UNet(PRESETS["xl"])), VAECodec())
    model.set_precision(torch.bfloat16)
    return model


def test_there_is_free_memory():
    assert CPU.free_memory() > 2**20


def test_what_torch_keeps_of_a_gpu_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * GIB, 24 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5 * GIB)
    assert CUDA.free_memory() == 18 * GIB


def test_tiles_follow_the_memory(small_model, memory):
    assert make_plan(small_model, (64, 64), CPU).tile == 0
    memory(2**27)
    small = make_plan(small_model, (8192, 8192), CPU).tile
    memory(2**29)
    assert 0 < small < make_plan(small_model, (8192, 8192), CPU).tile
    assert small % small_model.network.stride == 0
    assert make_plan(small_model, (8192, 8192), CPU, tile=0).tile == 0
    assert make_plan(small_model, (8192, 8192), CPU, tile=100).tile == 50


def test_what_a_network_sees_whole_is_blended_from_as_many_tiles_as_fit(xl, memory):
    memory(64 * GIB)
    assert make_plan(xl, (1024, 1024), CUDA).tile == 0
    memory(4 * GIB)
    roomy = make_plan(xl, (8192, 8192), CUDA)
    memory(1 * GIB)
    tight = make_plan(xl, (8192, 8192), CUDA)
    for plan in (roomy, tight):
        assert plan.overlap == plan.tile // 8 > 0
        assert plan.batch * plan.tile**2 * xl.network.floats_per_cell * 2 <= plan.free // 2
    assert roomy.batch * roomy.tile**2 > tight.batch * tight.tile**2


def test_the_codec_works_in_bands_where_the_image_does_not_fit(xl, memory):
    memory(64 * GIB)
    assert make_plan(xl, (1024, 1024), CUDA).rows == 0
    memory(24 * GIB)
    banded = make_plan(xl, (4096, 4096), CUDA)
    memory(6 * GIB)
    offloaded = make_plan(xl, (4096, 4096), CUDA)
    assert banded.rows > 0
    assert (banded.offload, offloaded.offload) == (False, True)
    assert offloaded.peak < banded.peak


def test_four_thousand_pixels_fit_a_card_of_24_gib(xl, memory):
    weights = sum(weight.numel() * weight.element_size() for weight in xl.tensors().values())
    memory(24 * GIB - weights)
    plan = make_plan(xl, (4096, 4096), CUDA)
    assert weights + plan.peak < 24 * GIB
    assert plan.cells == (512, 512)
    assert plan.tile > 0 or plan.rows > 0


def test_a_smaller_plan_shrinks_until_nothing_is_left(xl, memory):
    memory(24 * GIB)
    plan = make_plan(xl, (4096, 4096), CUDA)
    smaller = plan.smaller(xl)
    assert 0 < smaller.tile < (plan.tile or 512)
    assert smaller.batch == 1
    assert smaller.offload
    while smaller.tile > SMALLEST_TILE:
        smaller = smaller.smaller(xl)
    with pytest.raises(UserError, match="out of memory"):
        smaller.smaller(xl)


@pytest.mark.parametrize("tile", [0, 96])
def test_evaluations_and_operations_are_as_predicted(small_unet, photo, tile):
    plan = make_plan(small_unet, (180, 244), CPU, tile)
    calls = []
    # not every torch counts fused attention on a CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        upscale(small_unet, photo, 2, 2, tile=tile, color="none", progress=lambda *seen: calls.append(seen[0]))
    assert calls[-1] == plan.evaluations(small_unet, 2) == (2 if tile == 0 else 2 * 3 * 3)
    # but for the conditioning, computed once a step
    assert counter.get_total_flops() == pytest.approx(sampling_flops(plan, small_unet, 2), rel=1e-3)


def test_tiles_are_cut_on_a_network_that_is_told_so_by_the_plan(small_unet, photo):
    whole = upscale(small_unet, photo, 2, 2, tile=0)
    tiled = upscale(small_unet, photo, 2, 2, tile=128)
    assert whole.shape == tiled.shape
    assert not torch.equal(whole, tiled)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("no memory"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:125] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried"),
    RuntimeError("unable to mmap 1073742136 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
    RuntimeError("could not create a primitive"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GiB, max allowed: 9.07 GiB)"),
]


def test_other_errors_are_no_lack_of_memory():
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory")):
        assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_is_tried_once_more_with_less(error, small_model, photo, monkeypatch, caplog):
    expected = upscale(small_model, photo, 2)
    sides, evaluate = [], small_model.network.evaluate

    def short_of_memory(x, condition):
        sides.append(max(x.shape[-2:]))
        if len(sides) == 1:
            raise error
        return evaluate(x, condition)

    monkeypatch.setattr(small_model.network, "evaluate", short_of_memory)
    seen = []
    with caplog.at_level(logging.WARNING, "flowmapsr"):
        result = upscale(small_model, photo, 2, tile=0, progress=lambda done, total, _: seen.append((done, total)))
    assert (result - expected).abs().max() < 1e-5
    assert max(sides[1:]) < sides[0]
    assert "out of memory" in caplog.text
    assert seen[-1][0] == seen[-1][1]


def test_memory_that_never_suffices_is_an_error(small_model, photo, monkeypatch):
    def no_memory(x, condition):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(small_model.network, "evaluate", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        upscale(small_model, photo, 2, tile=0)


def test_a_plan_in_words(small_model, xl, memory):
    memory(24 * GIB)
    text = describe(make_plan(small_model, (360, 480), CPU), small_model, 2)
    assert "240x180 cells, untiled; 2 evaluations" in text
    assert "24 GiB free" in text
    large = describe(make_plan(xl, (4096, 4096), CUDA, tile=1024), xl, 2)
    assert "tiles of at most 128; 16 cells shared" in large
    assert "codec in bands of" in large
