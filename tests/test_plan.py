"""How an image is cut so that it fits the memory."""

import logging
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from flowmapsr.flowmapsr_core import upscale
from flowmapsr.flowmapsr_core.codecs import PixelCodec, VAECodec, VAECodecConfig
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import PRESETS, LocalNet, UNet
from flowmapsr.flowmapsr_core.upscaling.host import TorchHost
from flowmapsr.flowmapsr_core.upscaling.memory import is_out_of_memory
from flowmapsr.flowmapsr_core.upscaling.plan import SMALLEST_TILE, describe, make_plan, sampling_flops
from live_memory import LiveMemory
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

CPU, CUDA, META = (TorchHost(torch.device(name)) for name in ("cpu", "cuda", "meta"))
MIB, GIB = 2**20, 2**30


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
    with pytest.raises(UserError, match="not enough memory"):
        smaller.smaller(xl)


def planned_and_true(model, side, host, **arguments):
    """What the plan says that an image of a side takes on a device, and what it does take."""
    plans = []

    def keep_plan(*given):
        plans.append(make_plan(*given))
        return plans[0]

    with pytest.MonkeyPatch.context() as patch, LiveMemory(host.device.type) as live:
        patch.setattr("flowmapsr.flowmapsr_core.upscaling.pipeline.make_plan", keep_plan)
        patch.setattr(F, "scaled_dot_product_attention", lambda q, *_, **__: torch.empty_like(q))  # fused
        upscale(model, torch.rand(1, 3, side // 4, side // 4), look="faithful", host=host, **arguments)
    return plans[0], live.peak


@pytest.mark.parametrize("arguments", [{"tile": 128}, {"tile": 0}, {"tile": 128, "color": "lab"}])
def test_the_plan_counts_picture_and_halo(arguments):
    plan, true = planned_and_true(Model(FlowMap(LocalNet()), PixelCodec()), 256, CPU, **arguments)
    assert 0.8 * true < plan.peak < 1.25 * true


def test_a_batch_takes_a_device_no_more_than_a_picture():
    """Each result goes where the images are as soon as it is made."""
    with META.device:
        model = Model(FlowMap(LocalNet()), PixelCodec())
    peaks = []
    for count in (1, 3):
        with LiveMemory("meta") as live:
            result = upscale(model, torch.rand(count, 3, 32, 40), host=META)
        assert (result.device.type, len(result)) == ("cpu", count)
        peaks.append(live.peak)
    assert peaks[1] == peaks[0] > 0


def test_a_picture_that_a_device_has_no_room_for_lies_in_host_memory(memory):
    with META.device:
        model = Model(FlowMap(LocalNet()), PixelCodec())
    memory(64 * MIB)
    plan, true = planned_and_true(model, 1024, META, tile=512)
    assert plan.offload
    assert plan.picture > plan.free // 2
    assert 0.8 * true < plan.peak < 1.25 * true
    memory(1 * GIB)
    plan, true = planned_and_true(model, 1024, META, tile=512)
    assert not plan.offload
    assert 0.8 * true < plan.peak < 1.25 * true


@pytest.mark.parametrize(("free", "banded", "offload"), [(4, False, False), (1.2, True, False), (0.3, True, True)])
def test_the_plan_counts_the_codec(memory, free, banded, offload):
    with META.device:
        model = Model(FlowMap(UNet(PRESETS["tiny"])), VAECodec(VAECodecConfig(block_out_channels=(32, 64, 128, 128))))
    memory(int(free * GIB))
    plan, true = planned_and_true(model, 1024, META, tile=0)
    assert ((plan.rows > 0), plan.offload) == (banded, offload)
    assert 0.7 * true < plan.peak < 1.5 * true


def test_advice_names_what_takes_the_memory(small_model, memory):
    memory(GIB)
    assert "picture itself takes about 0.75 GiB" in make_plan(small_model, (4096, 4096), CPU, tile=128).advice()
    assert "smaller tile" in make_plan(small_model, (4096, 4096), CPU, tile=0).advice()
    assert "smaller tile" in make_plan(small_model, (4096, 4096), CUDA, tile=128).advice()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("tile", [0, 64])
def test_a_picture_in_host_memory_is_the_same_picture(small_model, photo, memory, tile):
    small_model.to("cuda")
    memory(8 * GIB)
    expected = upscale(small_model, photo, 2, tile=tile)
    memory(MIB)
    assert torch.allclose(upscale(small_model, photo, 2, tile=tile), expected, atol=1e-2)  # convolutions may use TF32


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
    assert "out of memory; once more with less: latent of" in caplog.text
    assert "TFLOP" not in caplog.text  # counting would need what there is none of
    assert seen[-1][0] == seen[-1][1]


def test_memory_that_never_suffices_is_an_error(small_model, photo, monkeypatch):
    def no_memory(x, condition):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(small_model.network, "evaluate", no_memory)
    with pytest.raises(UserError, match=r"^not enough memory; close other programs, or use a smaller tile or scale$"):
        upscale(small_model, photo, 2, tile=0)


def test_a_plan_in_words(small_model, xl, memory):
    memory(24 * GIB)
    text = describe(make_plan(small_model, (360, 480), CPU), small_model, 2)
    assert "240x180 cells, untiled; 2 evaluations" in text
    assert "24 GiB free" in text
    large = describe(make_plan(xl, (4096, 4096), CUDA, tile=1024), xl, 2)
    assert "tiles of at most 128; 16 cells shared" in large
    assert "codec in bands of" in large
