import weakref
from dataclasses import replace

import pytest
import torch
from flowmapsr.flowmapsr_core import load_model, save_checkpoint
from flowmapsr.flowmapsr_core.codecs import VAECodec, VAECodecConfig
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.files import lora
from flowmapsr.flowmapsr_core.files.checkpoint import describe
from flowmapsr.flowmapsr_core.files.lora import lora_names, merge_lora, merge_loras, pair_scales, save_lora
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import LocalNet
from safetensors.torch import load_file, save_file

TARGETS = ("conv1", "gate", "linear", "down.0")  # 3x3, 1x1, linear, strided 2x2


@pytest.fixture
def base(small_model, tmp_path):
    path = tmp_path / "base.safetensors"
    small_model.info = {"title": "Base"}
    save_checkpoint(small_model, path)
    return path


@pytest.fixture
def new_lora(base, tmp_path):
    """Writes a LoRA for layers of each kind, random by its seed; returns its file."""

    def new(seed=0, rank=4, alpha=2.0):
        model, generator, layers = load_model(base), torch.Generator().manual_seed(seed), {}
        for name, weight in model.network.named_parameters():
            layer = name.removesuffix(".weight")
            if layer != name and layer.endswith(TARGETS):
                out, *rest = weight.shape
                down = torch.randn(rank, *rest, generator=generator) * 0.1
                layers[layer] = down, torch.randn(out, rank, *[1] * len(rest[1:]), generator=generator)
        path = tmp_path / f"lora-{seed}-{rank}.safetensors"
        save_lora(path, layers, rank, alpha, model, {"title": "Detail", "training": {"steps": 3}})
        return path

    return new


@torch.no_grad()
def output(model):
    """The network's answer to a fixed input."""
    x = torch.randn(2, 12, 16, 20, generator=torch.Generator().manual_seed(5))
    one = torch.ones(2)
    return model.flow(x, one, one * 0.5, one * 2, torch.tensor([False, True]))


def weights(model):
    return {name: tensor.clone() for name, tensor in model.tensors().items()}


def test_a_lora_trained_with_peft_equals_its_merged_export(base, tmp_path, set_lora_scale):
    pytest.importorskip("peft", reason="LoRA training needs peft")
    from flowmapsr.trainer.learning.adapter import add_lora, lora_layers

    model, untouched = load_model(base), output(load_model(base))
    parameters = add_lora(model.flow, rank=4, alpha=2.0, targets=TARGETS)
    assert torch.equal(output(model), untouched)  # it starts at zero change
    trainable = {name for name, parameter in model.flow.named_parameters() if parameter.requires_grad}
    assert len(parameters) == len(trainable) == 2 * len(lora_layers(model.flow)) > 8
    assert all(".lora_" in name for name in trainable)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    path = tmp_path / "lora.safetensors"
    save_lora(path, lora_layers(model.flow), 4, 2.0, model)
    for scale in (0.0, 1.0, 1.5, 3.0):
        merged = load_model(base)
        merge_lora(merged, path, scale)
        set_lora_scale(model.flow, scale)
        assert (output(model) - output(merged)).abs().max() < 1e-4
        assert torch.equal(output(model), untouched) == torch.equal(output(merged), untouched) == (scale == 0)


def test_a_lora_learns_while_its_base_stays(base, set_lora_scale):
    pytest.importorskip("peft", reason="LoRA training needs peft")
    from flowmapsr.trainer.learning.adapter import add_lora, lora_layers

    model = load_model(base)
    before = output(model)
    optimizer = torch.optim.Adam(add_lora(model.flow, rank=2, alpha=2.0), lr=1e-2)
    assert {name.rpartition(".")[2] for name in lora_layers(model.flow)} == {"gate", "conv1", "conv2"}
    x, one = torch.randn(1, 12, 8, 8), torch.ones(1)
    losses = []
    for _ in range(10):
        loss = model.flow(x, one, one * 0, one, one > 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not torch.equal(output(model), before)
    set_lora_scale(model.flow, 0.0)
    assert torch.equal(output(model), before)


def test_impossible_branches_are_refused(base):
    pytest.importorskip("peft", reason="LoRA training needs peft")
    from flowmapsr.trainer.learning.adapter import add_lora

    for rank, targets in ((2, ("attention",)), (0, ("gate",)), (2, ("modulation",))):
        with pytest.raises(UserError, match=f"a LoRA of rank {rank} cannot be put on the layers {targets[0]}"):
            add_lora(load_model(base).flow, rank, 2.0, targets)


def test_the_file_says_what_it_is(base, new_lora):
    path = new_lora(rank=4)
    described = describe(path)
    assert (described["kind"], described["ranks"], described["rank"], described["alpha"]) == ("lora", [4], "4", "2")
    assert described["flowmapsr.base_hash"] == load_model(base).info["hash_sha256"]
    assert described["modelspec.title"] == "Detail"
    assert described["training"] == {"steps": 3}
    tensors = load_file(path)
    assert tensors["diffusion_model.encoder.1.0.conv1.lora_down.weight"].shape == (4, 12, 3, 3)
    assert tensors["diffusion_model.encoder.1.0.conv1.lora_up.weight"].shape == (12, 4, 1, 1)
    assert tensors["diffusion_model.encoder.1.0.modulation.linear.lora_up.weight"].shape == (24, 4)
    assert tensors["diffusion_model.down.0.alpha"] == 2


def test_a_merged_layer_equals_the_branch_beside_it(base, new_lora):
    path, plain, merged = new_lora(), load_model(base), load_model(base)
    merge_lora(merged, path, 1.5)
    tensors = load_file(path)
    for layer, size in (("encoder.1.0.conv1", (9, 9)), ("down.0", (10, 8)), ("decoder.0.0.modulation.linear", None)):
        down, up = (tensors[f"diffusion_model.{layer}.lora_{which}.weight"] for which in ("down", "up"))
        before, after = plain.network.get_submodule(layer), merged.network.get_submodule(layer)
        x = torch.randn(2, down.shape[1], *(size or ()))
        if size:
            inner = torch.nn.functional.conv2d(x, down, None, before.stride, before.padding)
            branch = torch.nn.functional.conv2d(inner, up)
        else:
            branch = x @ down.T @ up.T
        assert torch.allclose(after(x), before(x) + 1.5 * 2.0 / 4 * branch, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scale_zero_changes_no_bit(base, new_lora, dtype):
    model = load_model(base, dtype=dtype)
    with torch.no_grad():
        model.network.down[0].weight.fill_(-0.0)  # adding a zero would turn it into +0.0
    before = weights(model)
    merge_loras(model, [(new_lora(0), 0.0), (new_lora(1), 0.0)])
    for name, tensor in weights(model).items():
        assert torch.equal(tensor.signbit(), before[name].signbit())
        assert torch.equal(tensor, before[name])


def test_several_add_up_in_any_order(base, new_lora):
    first, second = (new_lora(0), 1.5), (new_lora(1, rank=2), -0.7)
    together, reverse, in_turn = load_model(base), load_model(base), load_model(base)
    merge_loras(together, [first, second])
    merge_loras(reverse, [second, first])
    for each in (first, second):
        merge_lora(in_turn, *each)  # the second is not refused for the weights that the first has changed
    for name, tensor in weights(together).items():
        assert torch.equal(tensor, weights(reverse)[name])
        assert torch.allclose(tensor, weights(in_turn)[name], atol=1e-6)
    half, exact = load_model(base, dtype=torch.bfloat16), load_model(base, dtype=torch.bfloat16)
    exact.set_precision(torch.float32)
    merge_loras(half, [first, second])
    merge_loras(exact, [first, second])
    for name, tensor in weights(half).items():
        assert torch.equal(tensor, weights(exact)[name].bfloat16())  # rounded once


def test_names_need_the_header_only(base, new_lora, monkeypatch):
    """ComfyUI merges the weights itself."""
    path, model = new_lora(), load_model(base)
    with monkeypatch.context() as patch:
        patch.setattr(lora, "load_file", None)
        names = lora_names(path, model)
    expected = [name for name, _ in model.network.named_parameters() if name.removesuffix(".weight").endswith(TARGETS)]
    assert names == sorted(name for name in expected if name.endswith(".weight"))


def test_changes_are_written_out_one_after_another(base, new_lora, monkeypatch):
    alive, dense = [], lora.LowRank.dense

    def write_out(change):
        assert not [each for each in alive if each() is not None]
        result = dense(change)
        alive.append(weakref.ref(result))
        return result

    monkeypatch.setattr(lora.LowRank, "dense", write_out)
    merge_loras(load_model(base), [(new_lora(0), 1.0), (new_lora(1), 1.0)])
    assert len(alive) > 16


def test_what_is_not_applied(base, new_lora):
    path, model = new_lora(), load_model(base)
    before = weights(model)

    def refused(message, scale=1.0, model=model):
        with pytest.raises(UserError, match=message):
            merge_loras(model, [(good, 1.0), (path, scale)])

    good = new_lora(seed=1)
    for scale in (9.0, -8.5, float("inf"), float("nan")):
        refused("use -8 to 8", scale)
    with pytest.raises(UserError, match="not a LoRA"):
        lora_names(base, model)
    tensors = load_file(path)
    layer = "diffusion_model.encoder.1.0.conv1"
    down, up = f"{layer}.lora_down.weight", f"{layer}.lora_up.weight"
    save_file({key.replace("encoder.1.0", "encoder.7.7"): value for key, value in tensors.items()}, path)
    refused(r"does not fit this model: diffusion_model\.encoder\.7\.7")
    for changed in ({down: tensors[down][:, :3]}, {up: tensors[up][:3]}, {up: tensors[up][:, :3]}):
        save_file({key: value.contiguous() for key, value in {**tensors, **changed}.items()}, path)
        refused(r"does not fit this model: diffusion_model\.encoder\.1\.0\.conv1")
    save_file({key: value for key, value in tensors.items() if key != up}, path)
    refused("does not fit this model")
    save_file({**tensors, f"{layer}.dora_scale": torch.ones(12)}, path)
    refused("dora_scale")
    for name, tensor in weights(model).items():
        assert torch.equal(tensor, before[name])


def test_a_lora_of_a_model_fits_its_copies_and_warns_of_others(small_model, base, new_lora, tmp_path, caplog):
    path, copy, merged = new_lora(), tmp_path / "copy.safetensors", tmp_path / "merged.safetensors"
    save_checkpoint(small_model, copy, torch.bfloat16)
    model = load_model(base)
    merge_lora(model, path, 1.0)
    model.info["title"] = "Merged"
    save_checkpoint(model, merged)
    for same in (base, copy):
        lora_names(path, load_model(same))
    assert not caplog.text
    model = load_model(merged)
    merge_lora(model, path, 1.0)
    (record,) = caplog.records
    for part in (
        str(path),
        f"Base ({load_model(base).info['hash_sha256'][:10]})",
        f"Merged ({model.info['hash_sha256'][:10]})",
    ):
        assert part in record.getMessage()


def test_the_hash_of_a_flow_map_is_that_of_its_weights(small_model, base, tmp_path):
    with torch.device("meta"):
        codec = VAECodec(VAECodecConfig(block_out_channels=(16, 32), norm_num_groups=16, latent_channels=12))
    infos = []
    for name, model in {
        "latent": Model(small_model.flow, codec),
        "vae": Model(small_model.flow, VAECodec(codec.config)),
        "pixels": small_model,
    }.items():
        save_checkpoint(model, tmp_path / name)
        infos.append(describe(tmp_path / name))
    assert len({info["modelspec.flow_hash"] for info in infos}) == 1
    assert len({info["modelspec.hash_sha256"] for info in infos}) == 2
    for weight in small_model.flow.parameters():
        weight.mul_(1.01)
    save_checkpoint(small_model, tmp_path / "changed")
    assert describe(tmp_path / "changed")["modelspec.flow_hash"] != infos[0]["modelspec.flow_hash"]


def test_a_lora_of_a_network_of_another_shape_is_refused_though_its_layers_fit(small_model, new_lora, tmp_path):
    path, config = new_lora(), replace(small_model.network.config, decoder_blocks=(2, 1))
    with pytest.raises(UserError, match=r"whose decoder_blocks is \[1, 1\], this one's is \[2, 1\]; load it with"):
        lora_names(path, Model(FlowMap(LocalNet(config)), small_model.codec))


@pytest.mark.parametrize("odd", ["", "[1", "[1]"])
def test_loras_of_older_releases_name_a_hash_only(base, new_lora, caplog, odd):
    path, model = new_lora(), load_model(base)
    tensors, metadata = (
        load_file(path),
        {"flowmapsr.base_hash": model.info["hash_sha256"], "flowmapsr.base_network": odd},
    )
    save_file(tensors, path, metadata)
    lora_names(path, model)
    assert not caplog.text
    save_file(tensors, path, metadata | {"flowmapsr.base_hash": "0x0123456789abcdef"})
    lora_names(path, model)
    assert "was trained on a model without a title (0x01234567), and is added to Base (0x" in caplog.text


def test_a_file_without_base_hash_or_alpha_is_applied(base, new_lora):
    path, model, other = new_lora(alpha=4.0), load_model(base), load_model(base)
    merge_lora(model, path, 1.0)
    save_file({key: value for key, value in load_file(path).items() if not key.endswith(".alpha")}, path)
    merge_lora(other, path, 1.0)
    for name, tensor in weights(model).items():
        assert torch.equal(tensor, weights(other)[name])


def test_scales_go_with_files_in_order(tmp_path):
    files = [tmp_path / "a", tmp_path / "b"]
    assert pair_scales(files, [0.5], 1.5) == [(files[0], 0.5), (files[1], 1.5)]
    assert pair_scales([], [], 1.5) == []
    with pytest.raises(UserError, match="more LoRA scales"):
        pair_scales(files, [1.0, 2.0, 3.0], 1.5)
