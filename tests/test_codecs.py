import json

import pytest
import torch
from flowmapsr.flowmapsr_core import load_model, save_checkpoint
from flowmapsr.flowmapsr_core.codecs import (
    CODECS,
    Bands,
    PixelCodec,
    TinyVAECodec,
    TinyVAECodecConfig,
    VAECodec,
    VAECodecConfig,
)
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.files.vae_file import load_vae
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import PRESETS, UNet
from flowmapsr.flowmapsr_core.upscaling.preview import Preview
from live_memory import LiveMemory
from safetensors.torch import load_file, save_file

SMALL = VAECodecConfig(block_out_channels=(16, 32, 32), layers_per_block=1, norm_num_groups=16)
WIDE = VAECodecConfig(0.3611, 0.1159, 16, (16, 16), 2, 16, use_quant_conv=False)  # as VAEs of 16 channels are
TINY = TinyVAECodecConfig(width=8, encoder_blocks=(1, 2, 1, 1), decoder_blocks=(1, 1, 2, 1))
KINDS = {"VAECodec": SMALL, "TinyVAECodec": TINY}


def make_codec(config):
    """A codec in which every weight and bias counts."""
    torch.manual_seed(0)
    codec = (VAECodec if isinstance(config, VAECodecConfig) else TinyVAECodec)(config)
    for parameter in codec.parameters():
        parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.dim() == 1 else 0.02))
    return codec


def make_model(codec):
    torch.manual_seed(1)
    return Model(FlowMap(UNet(PRESETS["tiny"])).requires_grad_(False), codec)


def same(a, b):
    """Whether two codecs have the same configuration and weights."""
    state, other = a.state_dict(), b.state_dict()
    return a.config == b.config and state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)


# ------------------------------------------------------------------------------------------------- images and latents


def test_every_codec_keeps_to_the_interface(generator):
    image = torch.rand(2, 3, 32, 48, generator=generator)
    for name, kind in CODECS.items():
        codec = make_codec(KINDS[name]) if name in KINDS else kind()
        latent = codec.encode(image)
        assert latent.shape == (2, codec.channels, 32 // codec.factor, 48 // codec.factor)
        assert codec.decode(latent).shape == image.shape
        assert codec.dtype == latent.dtype == torch.float32
        bands = (None, Bands(4), Bands(4, offload=True))
        assert [codec.memory(320, 480, each) for each in bands] == sorted(
            (codec.memory(320, 480, each) for each in bands), reverse=True
        )


@pytest.mark.parametrize("config", [VAECodecConfig(block_out_channels=(32, 64, 128, 128)), TinyVAECodecConfig()])
@pytest.mark.parametrize("bands", [None, Bands(64), Bands(64, offload=True)])
def test_memory_is_what_coding_takes(config, bands):
    store = "cpu" if bands and bands.offload else "meta"
    with torch.device("meta"):
        codec = (VAECodec if isinstance(config, VAECodecConfig) else TinyVAECodec)(config)
    peaks = []
    for work, shape in ((codec.encode, (1, 3, 512, 512)), (codec.decode, (1, 4, 64, 64))):
        with LiveMemory("meta") as live:
            work(torch.zeros(shape, device=store), bands)
        peaks.append(live.peak)
    image = 0 if store == "cpu" else 4 * 6 * 512**2
    assert 0.7 * max(peaks) < codec.memory(512, 512, bands) + image < 1.5 * max(peaks)


@pytest.mark.parametrize("config", [SMALL, WIDE])
def test_a_latent_is_the_scaled_mean_of_the_posterior(config, generator):
    codec, image = make_codec(config), torch.rand(1, 3, 16, 24, generator=generator)
    mean = codec.vae.encode(image * 2 - 1).latent_dist.mean
    latent = codec.encode(image)
    assert torch.allclose(latent, (mean - config.shift_factor) * config.scaling_factor, atol=1e-6)
    assert torch.allclose(codec.decode(latent), codec.vae.decode(mean).sample / 2 + 0.5, atol=1e-5)


@pytest.mark.parametrize("config", [SMALL, WIDE, TINY])
@pytest.mark.parametrize("rows", [1, 20, 1000])
@pytest.mark.parametrize(("height", "width"), [(2, 1), (21, 9), (47, 3)])
def test_bands_change_nothing(config, rows, height, width, generator):
    codec, seen = make_codec(config), []
    bands = Bands(rows, progress=lambda done, total: seen.append((done, total)))
    latent = torch.randn(1, codec.channels, height, width, generator=generator)
    image = torch.rand(2, 3, height * codec.factor, width * codec.factor, generator=generator)
    assert (codec.decode(latent, bands) - codec.decode(latent)).abs().max() < 1e-5
    assert [done for done, _ in seen] == [*range(1, seen[-1][1] + 1)]
    assert (codec.encode(image, bands) - codec.encode(image)).abs().max() < 1e-5


def test_a_tiny_vae_sees_as_far_as_it_says(generator):
    """Bands with a cell less around them would be wrong, and with one more no better."""
    codec = make_codec(TINY).double()
    latent = torch.randn(1, 4, 61, 2, generator=generator).double()
    other = latent.clone()
    other[:, :, 30] += 5
    changed = (codec.vae.decode(other).sample != codec.vae.decode(latent).sample).any(dim=(0, 1, 3)).nonzero() // 8
    assert 30 - codec.decoder_radius <= changed.min() <= 31 - codec.decoder_radius
    assert 29 + codec.decoder_radius <= changed.max() <= 30 + codec.decoder_radius
    image = torch.rand(1, 3, 488, 16, generator=generator).double()
    other = image.clone()
    other[:, :, 240:248] += 1
    changed = (codec.encode(other) != codec.encode(image)).any(dim=(0, 1, 3)).nonzero()
    assert 30 - codec.encoder_radius <= changed.min() <= 31 - codec.encoder_radius
    assert 29 + codec.encoder_radius <= changed.max() <= 30 + codec.encoder_radius


def test_bands_without_rows_are_refused():
    with pytest.raises(UserError, match="at least 1"):
        Bands(0)


def test_codecs_are_frozen_and_pass_gradients_to_the_latent():
    for config in (SMALL, TINY):
        codec = make_codec(config).train()
        assert not any(module.training for module in codec.modules())
        assert not any(parameter.requires_grad for parameter in codec.parameters())
        latent = torch.randn(1, 4, 4, 4, requires_grad=True)
        codec.decode(latent).sum().backward()
        assert latent.grad.abs().min() > 0
        assert not codec.encode(torch.rand(1, 3, 16, 16, requires_grad=True)).requires_grad


def test_images_stay_float32_whatever_the_precision_of_the_weights(generator):
    image = torch.rand(1, 3, 16, 16, generator=generator)
    for config in (SMALL, TINY):
        codec = make_codec(config)
        exact, half = codec.encode(image), codec.bfloat16().encode(image)
        assert half.dtype == codec.decode(half).dtype == codec.decode(half, Bands(4)).dtype == torch.float32
        assert 0 < (half - exact).abs().max() < 0.1 * exact.abs().max()


# ---------------------------------------------------------------------------------------------------- files of a VAE


def original_name(name, levels):
    """What its authors call the tensor of an AutoencoderKL."""
    parts = name.split(".")
    if parts[1] in ("down_blocks", "up_blocks"):
        level = int(parts[2]) if parts[1] == "down_blocks" else levels - 1 - int(parts[2])
        kind, number = parts[3], parts[4]
        inner = f"block.{number}" if kind == "resnets" else kind.removesuffix("rs").removesuffix("e") + "e"
        parts[1:5] = [parts[1].removesuffix("_blocks"), str(level), inner]
    elif parts[1] == "mid_block":
        inner = f"block_{int(parts[3]) + 1}" if parts[2] == "resnets" else "attn_1"
        parts[1:4] = ["mid", inner]
    renamed = {"conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out", "group_norm": "norm"}
    renamed |= {"to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
    renamed_parts = [renamed.get(part, part) for part in parts]
    return ".".join(renamed_parts).replace("proj_out.0", "proj_out")


def originals(codec, prefix=""):
    """The tensors of a codec as they are in its authors' files; attention as 1x1 convolutions."""
    levels = len(codec.config.block_out_channels)
    return {
        prefix + original_name(name, levels): tensor[..., None, None].clone() if tensor.dim() == 2 else tensor
        for name, tensor in codec.vae.state_dict().items()
    }


def diffusers_folder(folder, codec, name="diffusion_pytorch_model.safetensors", **changed):
    folder.mkdir(parents=True, exist_ok=True)
    shift = {"shift_factor": codec.config.shift_factor or None}
    settings = {**codec.vae.config, "scaling_factor": codec.config.scaling_factor, **shift, **changed}
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(codec.vae.state_dict(), folder / name)
    return folder


def test_names_of_the_originals_are_the_well_known_ones():
    names = originals(make_codec(SMALL)).keys()
    assert {
        "encoder.down.0.downsample.conv.weight", "encoder.down.1.block.0.nin_shortcut.weight",
        "encoder.mid.attn_1.q.weight", "decoder.mid.block_2.norm1.bias", "decoder.up.2.block.1.conv2.weight",
        "decoder.up.1.upsample.conv.bias", "decoder.norm_out.weight", "post_quant_conv.weight",
        "decoder.mid.attn_1.proj_out.weight", "decoder.mid.attn_1.norm.weight",
    } <= names  # fmt: skip


@pytest.mark.parametrize("config", [SMALL, WIDE, TINY])
def test_folders_of_diffusers(config, tmp_path):
    codec = make_codec(config)
    assert same(load_vae(diffusers_folder(tmp_path / "alone", codec)), codec)
    assert same(load_vae(diffusers_folder(tmp_path / "pipeline" / "vae", codec).parent), codec)
    half = diffusers_folder(tmp_path / "half", make_codec(config).half(), "diffusion_pytorch_model.fp16.safetensors")
    loaded = load_vae(half)
    assert loaded.dtype == torch.float32
    assert same(loaded, make_codec(config).half().float())
    both = diffusers_folder(half, codec)
    assert same(load_vae(both), codec)


def test_single_files(tmp_path):
    codec, file = make_codec(SMALL), tmp_path / "vae.safetensors"
    more = {"model.diffusion_model.out.2.bias": torch.zeros(4), "conditioner.embedders.0.x": torch.zeros(1)}
    tensors = codec.vae.state_dict()
    for content in (
        tensors,
        {"vae." + name: tensor for name, tensor in tensors.items()} | more,
        originals(codec),
        originals(codec, "first_stage_model.") | more,
        originals(codec, "vae."),
    ):
        save_file(content, file)
        assert same(load_vae(file), codec), sorted(content)[:2]
    older = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    for old, new in older.items():
        tensors = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in tensors.items()}
    save_file(tensors, file)
    assert same(load_vae(file), codec)
    tiny = make_codec(TINY)
    save_file(tiny.vae.state_dict(), file)
    assert same(load_vae(file), tiny)


def test_a_checkpoint_of_the_first_stable_diffusion_has_its_scale(tmp_path):
    file = tmp_path / "v1.safetensors"
    save_file(originals(make_codec(SMALL), "first_stage_model.") | {"cond_stage_model.x": torch.zeros(1)}, file)
    assert load_vae(file).config.scaling_factor == 0.18215


def test_files_without_a_vae_that_can_be_used(tmp_path):
    codec, file = make_codec(SMALL), tmp_path / "x.safetensors"
    tensors = codec.vae.state_dict()

    def refused(content, message):
        save_file(content, file)
        with pytest.raises(UserError, match=message):
            load_vae(file)

    refused({"lora_unet_x.alpha": torch.zeros(1)}, r"no VAE but 1 other tensors \(lora_unet_x\.alpha")
    refused({k: v for k, v in tensors.items() if k != "decoder.conv_out.bias"}, r"decoder\.conv_out\.bias is missing")
    refused({**tensors, "encoder.conv_in.bias": torch.zeros(3)}, r"encoder\.conv_in\.bias is \[3\], not \[16\]")
    refused({k: v for k, v in tensors.items() if k.startswith("decoder.")}, "it has no encoder")
    refused(make_codec(WIDE).vae.state_dict(), "16 channels, and their scale is in its folder only")
    file.write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match="pickled"):
        load_vae(file)
    with pytest.raises(UserError, match=r"no such file; give a VAE"):
        load_vae(tmp_path / "nothing")


def test_folders_without_a_vae_that_can_be_used(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        load_vae(tmp_path / "empty")
    folder = diffusers_folder(tmp_path / "vae", make_codec(SMALL))
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="pickled weights only"):
        load_vae(folder)
    (folder / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="no weights"):
        load_vae(folder)
    with pytest.raises(UserError, match="act_fn is gelu"):
        load_vae(diffusers_folder(folder, make_codec(SMALL), act_fn="gelu"))
    with pytest.raises(UserError, match="upsample_fn is bilinear"):
        load_vae(diffusers_folder(folder, make_codec(TINY), upsample_fn="bilinear"))
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load_vae(folder)


# -------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("config", [SMALL, WIDE, TINY])
def test_a_checkpoint_keeps_its_codec(config, tmp_path):
    if config is WIDE:
        model = Model(
            FlowMap(UNet(type(PRESETS["tiny"])(**{**vars(PRESETS["tiny"]), "channels": 16}))), make_codec(config)
        )
    else:
        model = make_model(make_codec(config))
    save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config() == model.config()
    assert same(loaded.codec, model.codec)
    assert Model.from_config(json.loads(json.dumps(model.config()))).codec.config == config


def test_a_checkpoint_may_leave_its_vae_to_the_user(tmp_path):
    bare, file = tmp_path / "bare.safetensors", tmp_path / "vae.safetensors"
    with torch.device("meta"):
        codec = VAECodec(SMALL)
    save_checkpoint(make_model(codec), bare)
    assert not any(name.startswith("codec.") for name in load_file(bare))
    with pytest.raises(UserError, match="without its VAE; give one with --vae"):
        load_model(bare)
    own = make_codec(SMALL)
    save_file(own.vae.state_dict(), file)
    model = load_model(bare, vae=file)
    assert same(model.codec, own)
    save_checkpoint(model, bare)
    assert same(load_model(bare).codec, own)
    with_another_decoder = make_codec(SMALL)
    with_another_decoder.vae.decoder.conv_in.weight.add_(1)
    save_file(with_another_decoder.vae.state_dict(), file)
    assert same(load_model(bare, vae=file).codec, with_another_decoder)


def test_a_vae_of_the_same_shape_and_other_latents_is_told_by_a_test_picture(tmp_path):
    own, path = tmp_path / "own.safetensors", tmp_path / "model.safetensors"
    codec = make_codec(SMALL)
    save_file(codec.vae.state_dict(), own)
    save_checkpoint(make_model(load_vae(own)), path)
    assert len(load_model(path).codec.config.probe) == 4 * 16 * 16
    save_file({name: tensor.bfloat16() for name, tensor in codec.vae.state_dict().items()}, own)
    load_model(path, vae=own)  # rounding is no other VAE
    torch.manual_seed(5)
    other = VAECodec(SMALL)
    save_file(other.vae.state_dict(), own)
    with pytest.raises(UserError, match=r"makes other latents than .* was trained on; give the model's own VAE"):
        load_model(path, vae=own)
    other.vae.load_state_dict(codec.vae.state_dict())
    other.vae.quant_conv.weight[:4].mul_(0.18215 / 0.13025)  # a scale that no file states
    other.vae.quant_conv.bias[:4].mul_(0.18215 / 0.13025)
    save_file(other.vae.state_dict(), own)
    with pytest.raises(UserError, match="makes other latents"):
        load_model(path, vae=own)


def test_a_vae_that_does_not_fit_is_refused_before_the_network_is_read(small_model, tmp_path, monkeypatch):
    path, pixels = tmp_path / "model.safetensors", tmp_path / "pixels.safetensors"
    save_checkpoint(make_model(make_codec(SMALL)), path)
    save_checkpoint(small_model, pixels)
    three = VAECodecConfig(block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=16)
    tiny = TinyVAECodecConfig(0.5, width=8, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1))
    folders = {
        "scale": diffusers_folder(tmp_path / "scale", make_codec(SMALL), scaling_factor=0.18215),
        "channels": diffusers_folder(tmp_path / "channels", make_codec(WIDE)),
        "factor": diffusers_folder(tmp_path / "factor", make_codec(three)),
        "tiny": diffusers_folder(tmp_path / "tiny", make_codec(tiny)),
    }
    assert load_model(path, vae=folders["tiny"]).codec.config == tiny  # on a scale of its own
    monkeypatch.setattr("flowmapsr.flowmapsr_core.files.checkpoint.safe_open", None)
    with pytest.raises(UserError, match=r"scaling_factor is 0\.18215, not 0\.13025"):
        load_model(path, vae=folders["scale"])
    with pytest.raises(UserError, match="channels is 16, not 4"):
        load_model(path, vae=folders["channels"])
    with pytest.raises(UserError, match="pixels per cell is 2, not 4"):
        load_model(path, vae=folders["factor"])
    with pytest.raises(UserError, match="needs no VAE"):
        load_model(pixels, vae=folders["scale"])


def test_precision_is_the_network_s_and_the_vae_keeps_clear_of_float16(tmp_path):
    save_checkpoint(make_model(make_codec(SMALL)), tmp_path / "model.safetensors")
    for dtype, expected in ((torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)):
        model = load_model(tmp_path / "model.safetensors", dtype=dtype)
        assert model.dtype == model.flow.prompts["positive"].dtype == dtype
        assert model.codec.dtype == expected
    model.set_precision(torch.float32)
    assert {parameter.dtype for parameter in model.flow.parameters()} == {torch.float32}


# ------------------------------------------------------------------------------------------------------------- preview


class MeanCodec:
    """Latents of four channels, each a linear function of a cell's mean colour, and one of noise."""

    factor, channels = 4, 4
    mix = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.4, -1.0], [-1.0, 0.2, 2.0]])

    def encode(self, image):
        mean = torch.nn.functional.avg_pool2d(image, 4)
        noise = torch.randn(mean[:, :1].shape, generator=torch.Generator().manual_seed(5))
        return torch.cat([torch.einsum("ij,bjhw->bihw", self.mix, mean) + 7, noise], dim=1)


@pytest.mark.parametrize("side", [40, 4 * 700])
def test_the_preview_of_latents_is_their_best_linear_map_to_colors(side, generator):
    codec, image = MeanCodec(), torch.rand(1, 3, side, 60, generator=generator)
    padded = torch.nn.functional.pad(image, (0, 4, 0, 8))  # the latent goes on after the picture
    preview = Preview(codec, codec.encode(padded), image)
    every = 1 if side == 40 else 2
    means = torch.nn.functional.avg_pool2d(image, 4)[..., ::every, ::every]
    shown = preview.image()
    assert (shown[..., : means.shape[2], : means.shape[3]] - means).abs().max() < 1e-3
    sharper = torch.rand(1, 3, 8, 8, generator=generator)
    x, one = codec.encode(sharper), torch.ones(1)
    preview.on_tile((2, 2, 4, 4), torch.zeros_like(x), -x, one)
    start = 2 // every
    pasted = preview.image()[..., start : start + 2 // every, start : start + 2 // every]
    assert (pasted - torch.nn.functional.avg_pool2d(sharper, 4)[..., ::every, ::every]).abs().max() < 1e-3


def test_the_preview_of_a_flat_picture_is_flat():
    codec, image = MeanCodec(), torch.full((1, 3, 16, 16), 0.3)
    latent = codec.encode(image)
    latent[:, 3] = 0
    assert (Preview(codec, latent, image).image() - 0.3).abs().max() < 1e-5


def test_the_preview_of_pixels_is_the_picture(photo):
    codec, image = PixelCodec(2), photo[..., :88, :120]
    shown = Preview(codec, codec.encode(image), image).image()
    assert torch.allclose(shown, torch.nn.functional.avg_pool2d(image, 2), atol=1e-6)
