"""Models of other kinds, small and random, in the layouts that people have them in."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from flowmapsr.flowmapsr_core import load_model
from flowmapsr.flowmapsr_core.cli import command as cli
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.files.checkpoint import describe, save_checkpoint
from flowmapsr.flowmapsr_core.files.convert import convert, read_source, summary
from flowmapsr.flowmapsr_core.files.prompts import encode_prompts
from flowmapsr.flowmapsr_core.method.flow import sample
from flowmapsr.flowmapsr_core.model import NEGATIVE_PROMPT, POSITIVE_PROMPT
from safetensors.torch import load_file, save_file
from test_prompts import CONFIG, write_tokenizer
from transformers import CLIPTextModelWithProjection

NEW = {f"class_embedding.linear_{layer}.{part}" for layer in (1, 2) for part in ("weight", "bias")}
SHAPE = {"layers_per_block": 1, "use_linear_projection": True, "transformer_layers_per_block": [1, 2]}
BLOCKS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}


def perturbed(module):
    """Every weight and bias counts."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return module.requires_grad_(False).eval()


def make_lbm(**changed):
    """The denoiser of LBM, narrower: head width 64, 32 groups."""
    torch.manual_seed(0)
    widths = [64, 128]
    settings = {"block_out_channels": widths, "cross_attention_dim": widths, "attention_head_dim": [1, 2]}
    return perturbed(UNet2DConditionModel(**{**SHAPE, **BLOCKS, **settings, **changed}))


def make_sdxl(size_dim=8, **changed):
    """SDXL's UNet, smaller in every number."""
    torch.manual_seed(0)
    settings = {
        "block_out_channels": [16, 32],
        "attention_head_dim": [2, 4],
        "norm_num_groups": 8,
        "cross_attention_dim": 12,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": size_dim,
        "projection_class_embeddings_input_dim": 6 * size_dim + 10,
    }
    return perturbed(UNet2DConditionModel(**{**SHAPE, **BLOCKS, **settings, **changed}))


def save_lbm(unet, folder):
    folder.mkdir()
    (folder / "config.yaml").write_text("unet_input_channels: 4\nbridge_noise_sigma: 0.005\n")
    others = {"vae.vae_model.decoder.conv_in.bias": torch.zeros(4), "num_iterations": torch.tensor(3.0)}
    save_file({**{f"denoiser.{k}": v for k, v in unet.state_dict().items()}, **others}, folder / "model.safetensors")
    return folder


def single_file_names(names, layers):
    """Names of diffusers to those of SDXL's authors, for a network of two levels."""
    whole = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "down_blocks.0.downsamplers.0.conv": f"input_blocks.{layers + 1}.0.op",
        "up_blocks.0.upsamplers.0.conv": f"output_blocks.{layers}.2.conv",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    for level in range(2):
        for layer in range(layers + 1):
            for part, index in (("resnets", 0), ("attentions", 1)):
                number = 1 + level * (layers + 1) + layer
                whole[f"down_blocks.{level}.{part}.{layer}"] = f"input_blocks.{number}.{index}"
                whole[f"up_blocks.{level}.{part}.{layer}"] = f"output_blocks.{number - 1}.{index}"
    inner = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
    }  # fmt: skip
    renamed = {}
    for name in names:
        first = next(first for first in whole if name.startswith(first + "."))
        rest = name.removeprefix(first + ".")
        if "resnets" in first:
            layer, _, part = rest.partition(".")
            rest = f"{inner[layer]}.{part}"
        renamed[name] = f"{whole[first]}.{rest}"
    return renamed


def save_single_file(unet, path):
    state = unet.state_dict()
    names = single_file_names(state, unet.config["layers_per_block"])
    others = {"first_stage_model.decoder.conv_in.bias": torch.zeros(4), "conditioner.embedders.0.x": torch.zeros(2)}
    save_file({**{f"model.diffusion_model.{names[k]}": v for k, v in state.items()}, **others}, path)
    return path


def empty_prompt(unet, x, t, size=1024):
    """SDXL's UNet at time 1000 t for an empty prompt and an uncropped picture."""
    width = unet.config["projection_class_embeddings_input_dim"] - 6 * unet.config["addition_time_embed_dim"]
    added = {
        "text_embeds": torch.zeros(len(x), width),
        "time_ids": torch.tensor([[size, size, 0.0, 0.0, size, size]]).expand(len(x), -1),
    }
    return unet(x, 1000 * t, torch.zeros(len(x), 5, unet.config["cross_attention_dim"]), added_cond_kwargs=added).sample


def ours(model, x, t):
    """u of the converted network, for s, guidance and prompts that are all different."""
    torch.manual_seed(1)
    return model.network(x, t, t * 0.3, torch.randn(len(x), model.network.config.prompt_dim), 1 + torch.rand(len(x)))


@pytest.fixture
def x(generator):
    return torch.randn(2, 4, 8, 12, generator=generator)


TIMES = torch.tensor([1.0, 0.37])

# ---------------------------------------------------------------------------------------------------------------- LBM


def test_a_converted_lbm_model_predicts_what_lbm_does(tmp_path, x):
    unet = make_lbm()
    source = read_source(save_lbm(unet, tmp_path / "lbm"))
    model = convert(source, dtype=torch.float32)
    assert torch.allclose(ours(model, x, TIMES), unet(x, 1000 * TIMES, None).sample, atol=1e-6)
    assert model.network.config.widths == (64, 128)
    assert model.network.config.depth == (0, 2)
    own = model.network.unet.state_dict()
    assert own.keys() - source.tensors.keys() == NEW
    assert own.keys() - NEW == unet.state_dict().keys()
    assert source.dropped == ("num_iterations", "vae.vae_model.decoder.conv_in.bias")


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 4])
def test_sampling_takes_the_steps_of_lbm(tmp_path, x, steps):
    """Sign and time: their scheduler and their network give our flow map's result."""
    unet = make_lbm()
    model = convert(read_source(save_lbm(unet, tmp_path / "lbm")), dtype=torch.float32)
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.array([1 - k / steps for k in range(steps)]))
    theirs = x
    for t in scheduler.timesteps:
        theirs = scheduler.step(unet(theirs, t, None).sample, t, theirs, return_dict=False)[0]
    assert torch.allclose(sample(model.velocity(2.0), x, steps), theirs, atol=1e-5)
    assert not torch.allclose(theirs, x, atol=0.1)


def test_lbm_with_another_shape_is_refused(tmp_path):
    with pytest.raises(UserError, match="takes 8 channels and gives 4"):
        read_source(save_lbm(make_lbm(in_channels=8), tmp_path / "conditioned"))
    folder = save_lbm(make_lbm(), tmp_path / "lbm")
    tensors = load_file(folder / "model.safetensors")
    del tensors["denoiser.conv_norm_out.bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"conv_norm_out\.bias is missing"):
        convert(read_source(folder))
    save_file(tensors, folder / "more.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors, more\.safetensors; give .* the file itself"):
        read_source(folder)


# --------------------------------------------------------------------------------------------------------------- SDXL


def save_unet(unet, folder):
    unet.save_pretrained(folder / "unet")
    return folder


def save_unet_itself(unet, folder):
    unet.save_pretrained(folder)
    return folder


def save_shards(unet, folder):
    unet.save_pretrained(folder / "unet", max_shard_size="200KB")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 2
    return folder


@torch.no_grad()
@pytest.mark.parametrize("save", [save_unet, save_unet_itself, save_shards])
def test_a_converted_sdxl_model_predicts_what_sdxl_does_for_an_empty_prompt(tmp_path, x, save):
    unet = make_sdxl()
    source = read_source(save(unet, tmp_path / "sdxl"))
    model = convert(source, dtype=torch.float32)
    expected = empty_prompt(unet, x, TIMES)
    assert torch.allclose(ours(model, x, TIMES), expected, atol=1e-5)
    assert not torch.allclose(empty_prompt(unet, x, TIMES, size=64), expected, atol=1e-3)  # the size counts
    assert model.network.config.heads == (2, 4)
    assert source.changed == ("time_embedding.linear_2.bias",)
    assert all(".attn2.to_" in name for name in source.new)
    assert all(name.startswith("add_embedding.") for name in source.dropped)
    keys = [tensor for name, tensor in source.tensors.items() if name.endswith("attn2.to_k.weight")]
    assert all(key.std() > 0.01 for key in keys)  # zero keys and zero values would never train


@torch.no_grad()
def test_a_single_file_is_the_same(tmp_path, x):
    unet = make_sdxl(256, block_out_channels=[64, 128], attention_head_dim=[1, 2], norm_num_groups=32)
    source = read_source(save_single_file(unet, tmp_path / "sdxl.safetensors"))
    model = convert(source, dtype=torch.float32)
    assert torch.allclose(ours(model, x, TIMES), empty_prompt(unet, x, TIMES), atol=1e-5)
    assert "conditioner.embedders.0.x" in source.dropped
    assert read_source(save_unet(unet, tmp_path / "folder")).config == source.config


def test_sdxl_of_another_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match="takes 9 channels"):
        read_source(save_unet(make_sdxl(in_channels=9), tmp_path / "inpainting"))
    with pytest.raises(UserError, match="act_fn is gelu"):
        read_source(save_unet(make_sdxl(act_fn="gelu"), tmp_path / "gelu"))
    with pytest.raises(UserError, match="of another shape"):
        convert(read_source(save_unet(make_sdxl(use_linear_projection=False), tmp_path / "convolutions")))


# -------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def lbm(tmp_path):
    return save_lbm(make_lbm(), tmp_path / "lbm")


@pytest.fixture
def vae(tmp_path):
    torch.manual_seed(2)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, scaling_factor=0.5, **blocks)
    vae.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_the_command_makes_a_whole_model(lbm, vae, tmp_path, capsys, x):
    torch.manual_seed(3)
    encoder = tmp_path / "encoder"
    CLIPTextModelWithProjection(CONFIG).save_pretrained(encoder)
    write_tokenizer(encoder)
    output = tmp_path / "out" / "made.safetensors"
    arguments = ("--vae", vae, "--bake-prompts", encoder, "--license", "cc-by-nc-4.0", "--dtype", "float32")
    assert run("convert", lbm, "--output", output, *arguments) == 0
    printed = capsys.readouterr().out
    taken = len(make_lbm().state_dict())
    assert f"taken {taken:7}" in printed
    assert "new         6" in printed  # four of the embedding, two prompts
    assert "dropped     2  num_iterations; vae.vae_model" in printed
    described = describe(output)
    assert described["modelspec.license"] == "cc-by-nc-4.0"
    assert described["modelspec.architecture"] == "flowmapsr/UNet"
    assert described["modelspec.converted_from"] == "model.safetensors, an LBM model"
    model = load_model(output)
    assert torch.allclose(ours(model, x, TIMES), make_lbm()(x, 1000 * TIMES, None).sample, atol=1e-5)
    assert model.codec.config.scaling_factor == 0.5
    expected = encode_prompts(encoder, [POSITIVE_PROMPT, NEGATIVE_PROMPT])
    assert torch.equal(torch.stack([*model.flow.prompts.values()]), expected)
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_without_a_vae_the_file_has_none(lbm, vae, tmp_path, caplog):
    output = tmp_path / "alone" / "made.safetensors"
    assert run("convert", lbm, "--output", output) == 0
    assert f"give that of {lbm} with --license" in caplog.text
    described = describe(output)
    assert described["dtypes"] == ["BF16"]
    assert described["config"]["codec"]["type"] == "VAECodec"
    with pytest.raises(UserError, match="comes without its VAE"):
        load_model(output)
    assert run("convert", lbm, "--output", output) == 0
    assert describe(output)["modelspec.hash_sha256"] == described["modelspec.hash_sha256"]


def test_learned_prompts_differ(lbm):
    positive, negative = convert(read_source(lbm)).flow.prompts.values()
    assert positive.shape == (1280,)
    assert not torch.allclose(positive, negative, atol=0.5)


OTHERS = {
    "lora_unet_down_blocks_0.lora_down.weight": "a LoRA",
    "unet.down_blocks.0.attn1.to_q.lora_A.weight": "a LoRA",
    "first_stage_model.decoder.conv_in.weight": "a VAE",
    "decoder.conv_in.weight": "a VAE",
    "model.diffusion_model.input_blocks.0.0.weight": "a model of Stable Diffusion 1 or 2",
    "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": "a diffusion transformer",
    "text_model.embeddings.token_embedding.weight": "a text encoder",
    "some.thing": r"neither: it holds 1 tensors \(some\.thing",
}


@pytest.mark.parametrize("name", OTHERS)
def test_says_what_a_file_is(name, tmp_path):
    save_file({name: torch.zeros(2, 2)}, tmp_path / "sdxl.safetensors")
    with pytest.raises(UserError, match=f"is {OTHERS[name]}.*; give an LBM or SDXL model"):
        read_source(tmp_path / "sdxl.safetensors")


def test_says_what_a_folder_is(small_model, vae, tmp_path, capsys):
    save_checkpoint(small_model, tmp_path / "own.safetensors")
    sd = {"block_out_channels": [16, 32], "norm_num_groups": 8, "cross_attention_dim": 12, "attention_head_dim": 2}
    UNet2DConditionModel(**SHAPE, **BLOCKS, **sd).save_pretrained(tmp_path / "sd" / "unet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    messages = {
        "own.safetensors": "a FlowMapSR checkpoint already",
        "sd": "a model of Stable Diffusion 1 or 2",
        "sd/unet/diffusion_pytorch_model.safetensors": "a model of Stable Diffusion 1 or 2",
        "vae": "holds AutoencoderKL",
        "empty": "no .safetensors file",
        "damaged": "is damaged",
        "nowhere": "no such file",
    }
    for name, message in messages.items():
        assert run("convert", tmp_path / name, "--output", tmp_path / "made.safetensors") == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line
    assert run("convert", tmp_path / "own.safetensors", "--output", tmp_path / "made.ckpt") == 2
    assert "end the name so" in capsys.readouterr().err
    assert not list(tmp_path.glob("made*"))


def test_says_that_the_vae_has_other_channels(lbm, tmp_path):
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=16).save_pretrained(tmp_path / "vae")
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    assert config["latent_channels"] == 16
    with pytest.raises(UserError, match="takes 4 channels, the codec gives 16"):
        convert(read_source(lbm), tmp_path / "vae")


def test_the_summary_names_what_changed(tmp_path):
    source = read_source(save_unet(make_sdxl(), tmp_path / "sdxl"))
    text = summary(source, convert(source))
    assert "changed     1  time_embedding.linear_2.bias" in text
    assert "SDXL's UNet" in text
