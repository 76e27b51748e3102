"""The machine as ComfyUI manages it: precision, memory, cancelling."""

from types import SimpleNamespace

import pytest
import torch
from comfyui_process import import_nodes
from comfyui_server import NEEDS_COMFYUI
from flowmapsr.flowmapsr_core.upscaling.host import TorchHost

pytestmark = NEEDS_COMFYUI
ALL = (torch.float32, torch.bfloat16, torch.float16)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    import_nodes(tmp_path_factory.mktemp("comfyui"))
    from flowmapsr.nodes.comfyui import host

    return host


@pytest.mark.parametrize("flag", ["fp32_unet", "force_fp32", "bf16_unet", "fp16_unet"])
def test_flags_decide(host, monkeypatch, flag):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert host.ComfyHost().compute_dtype(ALL) == torch.bfloat16 == TorchHost(CPU).compute_dtype(ALL)
    monkeypatch.setattr(host.args, flag, True)
    expected = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(flag.partition("_")[0], torch.float32)
    assert host.ComfyHost().compute_dtype(ALL) == expected


@pytest.mark.parametrize(
    ("card", "expected"), [("NVIDIA GeForce GTX 1660", torch.float32), ("Tesla V100", torch.float16)]
)
def test_cards_on_which_float16_is_broken(host, monkeypatch, card, expected):
    properties = SimpleNamespace(name=card, major=7, minor=0 if "V100" in card else 5, total_memory=2**33)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *arguments, **options: False)
    monkeypatch.setattr(host.management, "cpu_state", host.management.CPUState.GPU)
    monkeypatch.setattr(host.management, "maximum_vram_for_weights", lambda device=None: 2**33)
    assert host.ComfyHost(CUDA).compute_dtype(ALL) == expected


def test_memory_is_what_comfyui_says(host, monkeypatch):
    monkeypatch.setattr(host.management, "get_free_memory", lambda device: {CPU: 3, CUDA: 5}[device])
    assert (host.ComfyHost(CPU).free_memory(), host.ComfyHost(CUDA).free_memory()) == (3, 5)
    assert host.ComfyHost().is_out_of_memory(torch.OutOfMemoryError())
    assert host.ComfyHost().is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not host.ComfyHost().is_out_of_memory(ValueError())


def test_a_cancel_is_heard(host):
    host.ComfyHost().check_cancelled()
    host.management.interrupt_current_processing()
    with pytest.raises(host.management.InterruptProcessingException):
        host.ComfyHost().check_cancelled()
