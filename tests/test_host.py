"""The machine: precision, free memory and cancelling, by torch and by the operating system."""

import ctypes
from types import SimpleNamespace

import pytest
import torch
from flowmapsr.flowmapsr_core import UserError, load_model, upscale
from flowmapsr.flowmapsr_core.upscaling import memory
from flowmapsr.flowmapsr_core.upscaling.host import TorchHost, find_dtype

GIB = 2**30
ALL = (torch.float32, torch.bfloat16, torch.float16)


class SlowHost(TorchHost):
    """The CPU, where the user cancels after some tiles."""

    patience = 3

    def check_cancelled(self):
        type(self).patience -= 1
        if self.patience < 0:
            raise KeyboardInterrupt


def host(kind):
    return TorchHost(torch.device(kind))


@pytest.mark.parametrize(("native", "chosen"), [(True, torch.bfloat16), (False, torch.float16)])
def test_the_precision_that_a_gpu_computes_in_natively(monkeypatch, native, chosen):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert host("cuda").compute_dtype(ALL) == chosen
    assert host("cuda").compute_dtype((torch.float32,)) == torch.float32
    assert host("mps").compute_dtype(ALL) == torch.float16


def test_names_of_precisions(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert find_dtype("float16", host("cpu")) == torch.float16
    assert find_dtype("auto", host("cpu"))(ALL) == torch.bfloat16
    with pytest.raises(UserError, match="no dtype 'half'; choose auto, float32"):
        find_dtype("half", host("cpu"))


def test_a_network_refuses_a_precision_in_words(small_model, monkeypatch):
    with pytest.raises(UserError, match="a CompactNet does not work in float8_e4m3fn; choose auto or one of float32, "):
        load_model(dtype=torch.float8_e4m3fn)
    monkeypatch.setattr(type(small_model.network), "dtypes", (torch.float32,))
    with pytest.raises(UserError, match="does not work in float16"):
        small_model.set_precision(torch.float16)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    small_model.set_precision(host("cpu").compute_dtype)
    assert small_model.dtype == torch.float32


def test_a_host_cancels_between_tiles(small_model, photo):
    with pytest.raises(KeyboardInterrupt):
        upscale(small_model, photo, 2.0, tile=64, host=SlowHost(torch.device("cpu")))
    assert SlowHost.patience == -1


def test_free_memory_of_devices_that_torch_has_no_module_for():
    assert memory.free_memory(torch.device("xla")) == GIB // 2


def test_free_memory_of_other_accelerators(monkeypatch):
    numbers = {"mem_get_info": (3 * GIB, 16 * GIB), "memory_reserved": 2 * GIB, "memory_allocated": GIB}
    functions = {name: lambda device, value=value: value for name, value in numbers.items()}
    monkeypatch.setattr(torch, "xpu", SimpleNamespace(**functions))
    assert host("xpu").free_memory() == 4 * GIB


def test_a_container_may_have_less_than_the_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    roomy = host("cpu").free_memory()
    (tmp_path / "memory.current").write_text(f"{2**26}\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert host("cpu").free_memory() > 0.5 * roomy
    (tmp_path / "memory.max").write_text(f"{2**27}\n")
    assert host("cpu").free_memory() == 2**26


def test_free_memory_on_windows(monkeypatch):
    def status_of(pointer):
        pointer._obj[2] = 5 * GIB

    kernel = SimpleNamespace(GlobalMemoryStatusEx=status_of)
    monkeypatch.setattr(memory.os, "name", "nt")
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    assert memory._free_here() == 5 * GIB
