"""Latents in ComfyUI: its own VAEs decoded exactly, models of VAE latents sampled, a pixel codec in a VAE's place."""

import json
import time
from dataclasses import replace

import pytest
import torch
from comfyui_process import import_nodes
from comfyui_server import NEEDS_COMFYUI
from local_model import save_local
from safetensors.torch import save_file

pytestmark = NEEDS_COMFYUI
WIDTHS = (32, 64, 128, 128)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comfyui")
    for name in ("flowmapsr", "diffusion_models", "vae"):
        (folder / "models" / name).mkdir(parents=True)
    save_local(folder / "models" / "flowmapsr")
    return folder


@pytest.fixture(scope="module")
def nodes(base):
    return import_nodes(base)


@pytest.fixture(autouse=True)
def without_gradients():
    """As ComfyUI runs its nodes."""
    with torch.inference_mode():
        yield


def shake(module, generator):
    """Random weights that leave no layer without effect, and activations of about one."""
    for name, weight in module.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.data = noise * 0.2 + ("norm" in name and name.endswith("weight"))
        if weight.dim() > 1:
            weight.data = noise * weight[0].numel() ** -0.5
    return module


@pytest.fixture(scope="module")
def latent_model(base):
    """A model of VAE latents, and two files: with its VAE, and without."""
    from flowmapsr.flowmapsr_core import FlowMap, Model, save_checkpoint
    from flowmapsr.flowmapsr_core.codecs import VAECodec, VAECodecConfig
    from flowmapsr.flowmapsr_core.codecs.probe import probe
    from flowmapsr.flowmapsr_core.networks import PRESETS, UNet

    generator = torch.Generator().manual_seed(0)
    model = Model(FlowMap(UNet(PRESETS["tiny"])), VAECodec(VAECodecConfig(block_out_channels=WIDTHS)))
    shake(model.flow, generator).requires_grad_(False).eval()
    shake(model.codec, generator)
    model.flow.prompts["negative"].fill_(0.5)  # as Clip encodes it, but for the length
    model.codec.config = replace(model.codec.config, probe=probe(model.codec))
    save_checkpoint(model, base / "models" / "flowmapsr" / "latent.safetensors")
    bare = Model(model.flow, VAECodec(model.codec.config).to("meta"))
    save_checkpoint(bare, base / "models" / "diffusion_models" / "no vae.safetensors")
    return model


@pytest.fixture(scope="module")
def vae(nodes, latent_model):
    """The model's VAE as ComfyUI's."""
    return nodes.load_model.LoadModel.execute("latent.safetensors", "float32").args[1]


def decoded(nodes, latent, vae, band=0):
    return nodes.decode_tiled.DecodeTiled.execute({"samples": latent}, vae, band).args[0]


@pytest.mark.parametrize("band", [0, 16, 4096])
def test_the_exact_decode_is_comfyuis_own_untiled_one(nodes, vae, generator, band):
    latent = torch.randn(2, 4, 13, 9, generator=generator) * 3
    exact, own = decoded(nodes, latent, vae, band), vae.decode(latent)
    assert exact.shape == own.shape == (2, 104, 72, 3)
    assert own.std() > 0.05
    assert (exact - own).abs().max() < 1e-4


def test_a_vae_without_quantising_convolutions(nodes, generator):
    """Of the kind that SD3 and Flux have, in full width: ComfyUI tells it by its weights."""
    import comfy.sd
    from diffusers import AutoencoderKL
    from flowmapsr.nodes.comfyui import vae_bands as comfy_vae

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    shape = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16}
    weights = AutoencoderKL(**blocks, **shape, use_quant_conv=False, use_post_quant_conv=False).state_dict()
    flux = comfy.sd.VAE(sd=weights, dtype=torch.float32)
    latent = torch.randn(1, 16, 5, 6, generator=generator) * 3
    assert comfy_vae.is_plain(flux)
    assert (decoded(nodes, latent, flux, 16) - flux.decode(latent)).abs().max() < 1e-4


def test_a_vae_that_comfyui_cannot_build_is_refused(nodes, base, latent_model):
    """In groups of another number it would decode wrongly."""
    from flowmapsr.flowmapsr_core import FlowMap, Model, save_checkpoint
    from flowmapsr.flowmapsr_core.codecs import VAECodec

    path = base / "models" / "flowmapsr" / "groups.safetensors"
    for change in ({"norm_num_groups": 16}, {"block_out_channels": (32, 64, 128)}, {"use_quant_conv": False}):
        codec = VAECodec(replace(latent_model.codec.config, **change))
        save_checkpoint(Model(FlowMap(latent_model.network), codec), path)
        with pytest.raises(ValueError, match=r"groups.safetensors has a VAE of a shape that ComfyUI does not know"):
            load(nodes, path.name)
    path.unlink()


def test_the_exact_encode_is_comfyuis_own(nodes, vae):
    from flowmapsr.nodes.comfyui import vae_bands as comfy_vae

    image = torch.rand(1, 64, 96, 3)
    exact = comfy_vae.encode(vae, image.movedim(-1, 1) * 2 - 1, 8)
    assert (exact - vae.encode(image)).abs().max() < 1e-4


def test_weights_are_not_copied(nodes, vae):
    from flowmapsr.nodes.comfyui import vae_bands as comfy_vae

    own = {weight.data_ptr() for weight in vae.first_stage_model.parameters()}
    assert {weight.data_ptr() for weight in comfy_vae.to_diffusers(vae).parameters()} == own


def test_a_vae_of_another_kind_is_decoded_by_comfyui(nodes, generator, caplog):
    import comfy.sd
    from comfy.taesd.taesd import TAESD

    tiny = comfy.sd.VAE(sd=shake(TAESD(), generator).state_dict())
    latent = torch.randn(1, 4, 6, 5, generator=generator)
    with caplog.at_level("WARNING", "flowmapsr"):
        assert (decoded(nodes, latent, tiny) - tiny.decode(latent)).abs().max() < 1e-6
    assert "TAESD cannot be computed band by band" in caplog.text
    assert "blends tiles where memory runs out" in caplog.text


def test_of_video_and_sound_the_video_is_decoded(nodes, vae, generator):
    nested = pytest.importorskip("comfy.nested_tensor", reason="newer versions of ComfyUI nest latents")
    latent = torch.randn(1, 4, 6, 5, generator=generator)
    both = nested.NestedTensor([latent, torch.randn(1, 8, 10, generator=generator)])
    assert (decoded(nodes, both, vae) - vae.decode(latent)).abs().max() < 1e-4


def test_where_memory_runs_out_bands_are_thinner_and_in_host_memory(nodes, vae, generator, monkeypatch, caplog):
    from flowmapsr.flowmapsr_core.codecs import exact_vae

    decode, attempts = exact_vae.decode, []

    def fail_once(exact, latent, rows, *, offload, progress):
        attempts.append((rows, offload))
        if len(attempts) == 1:
            raise RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GiB)")
        return decode(exact, latent, rows, offload=offload, progress=progress)

    monkeypatch.setattr(exact_vae, "decode", fail_once)
    latent = torch.randn(1, 4, 6, 5, generator=generator)
    assert (decoded(nodes, latent, vae, 24) - vae.decode(latent)).abs().max() < 1e-4
    assert attempts == [(24, False), (8, True)]
    assert "out of memory; once more" in caplog.text


def test_the_decode_is_cancelled_between_bands(nodes, vae):
    import comfy.model_management as management

    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        decoded(nodes, torch.randn(1, 4, 16, 16), vae)
    decoded(nodes, torch.randn(1, 4, 8, 8), vae)  # the next one is not


def load(nodes, name, dtype="float32"):
    return nodes.load_model.LoadModel.execute(name, dtype).args[:2]


def sampled(nodes, model, image, steps="2", guidance=2.0, tile=0, overlap=0, **more):
    return nodes.sampler.Sampler.execute(model, image, steps, guidance, tile, overlap, **more).args[0]


def test_the_models_are_the_files_that_say_so(nodes, base, latent_model):
    from flowmapsr.flowmapsr_core.files.sources import SHIPPED
    from flowmapsr.nodes.comfyui.model_files import model_names

    folder = base / "models" / "diffusion_models"
    save_file({"weight": torch.zeros(2)}, folder / "other.safetensors")
    (folder / "broken.safetensors").write_bytes(b"nothing")
    assert model_names() == [*SHIPPED, "latent.safetensors", "local.safetensors", "no vae.safetensors"]


def test_a_file_that_is_written_anew_is_loaded_anew(nodes, base, latent_model):
    from flowmapsr.flowmapsr_core import save_checkpoint

    path, fingerprint = base / "models" / "flowmapsr" / "run.safetensors", nodes.load_model.LoadModel.fingerprint_inputs
    seen = []
    for _ in range(2):
        save_checkpoint(latent_model, path)
        seen += [fingerprint(model=path.name, weight_dtype="auto") for _ in range(2)]
        time.sleep(0.01)
    path.unlink()
    assert seen[0] == seen[1] != seen[2] == seen[3]
    assert fingerprint(model="built-in", weight_dtype="auto") == fingerprint(model="built-in", weight_dtype="auto")


@pytest.mark.parametrize(
    ("version", "codec", "message"),
    [("2", {"later": 1}, "has checkpoint format 2, this FlowMapSR reads 1; update it"),
     ("1", {"later": 1}, r"cannot build \(unknown key codec.later\); update it"),
     ("1", {"latent_channels": 5}, "the network takes 4 channels, the codec gives 5")],
)  # fmt: skip
def test_a_checkpoint_of_another_version_is_refused(nodes, base, latent_model, version, codec, message):
    path = base / "models" / "flowmapsr" / "later.safetensors"
    config = latent_model.config()
    config["codec"] |= codec
    metadata = {"format": "flowmapsr", "format_version": version, "config": json.dumps(config)}
    save_file({"network.weight": torch.zeros(2)}, path, metadata)
    with pytest.raises(ValueError, match=message):
        load(nodes, path.name)
    path.unlink()


@pytest.mark.parametrize("steps", ["posterior mean", "1", "2"])
def test_pixels_are_sampled_as_by_the_core_and_decoded_by_a_vae_node(nodes, base, photo, steps):
    from flowmapsr.flowmapsr_core import load_model, upscale

    model, vae = load(nodes, "local.safetensors")
    latent = sampled(nodes, model, photo[..., :89, :121].movedim(1, -1), steps)
    assert latent["samples"].shape == (1, 12, 45, 61)
    look = {"look": "faithful"} if steps == "posterior mean" else {"steps": int(steps), "guidance": 2.0}
    guidance = {"guidance": 2.0} if steps == "posterior mean" else {}
    local = load_model(base / "models" / "flowmapsr" / "local.safetensors")
    expected = upscale(local, photo[..., :89, :121], 1.0, color="none", **look, **guidance)
    for image in (decoded(nodes, latent["samples"], vae), vae.decode(latent["samples"])):
        assert (image[:, :89, :121].movedim(-1, 1).clamp(0, 1) - expected).abs().max() < 1e-5
    exact = nodes.decode_tiled.DecodeTiled.execute(latent, vae, 0).args[0]
    assert exact.shape == (1, 89, 121, 3)


def test_guidance_that_a_model_has_not_learned_is_left_out_and_said(nodes, photo, caplog):
    model, _ = load(nodes, "local.safetensors")
    image = photo.movedim(1, -1)
    plain = sampled(nodes, model, image, guidance=1.0)["samples"]
    assert not torch.equal(sampled(nodes, model, image, guidance=3.0)["samples"], plain)
    model.attachments["model"].info["training"] = {"learned_guidance": False}
    assert not caplog.text
    assert torch.equal(sampled(nodes, model, image, guidance=3.0)["samples"], plain)
    assert "evaluated at 1, not at 3" in caplog.text


def test_a_pixel_codec_is_lossless_in_every_vae_method(nodes, generator):
    _, vae = load(nodes, "local.safetensors")
    image = torch.rand(2, 40, 24, 3, generator=generator)
    latent = vae.encode(image)
    assert latent.shape == (2, vae.latent_channels, 20, 12)
    assert (vae.decode(latent) - image).abs().max() < 1e-6
    assert (vae.decode_tiled(latent, tile_x=8, tile_y=8, overlap=2) - image).abs().max() < 1e-5
    assert (vae.encode_tiled(image, tile_x=16, tile_y=16, overlap=4) - latent).abs().max() < 1e-5


def test_vae_decode_gives_no_colour_beyond_the_range_of_images(nodes, generator):
    _, vae = load(nodes, "local.safetensors")
    latent = torch.randn(1, 12, 20, 24, generator=generator) * 2
    before = latent.clone()
    for image in (vae.decode(latent), vae.decode_tiled(latent, tile_x=8, tile_y=8, overlap=2)):
        assert image.min() == 0
        assert image.max() == 1
    assert torch.equal(latent, before)


def test_decode_tiled_leaves_it_to_a_correction_to_bring_colours_back(nodes, generator):
    _, vae = load(nodes, "local.safetensors")
    latent = torch.randn(1, 12, 20, 24, generator=generator) * 2
    image = decoded(nodes, latent, vae)
    assert image.min() < 0
    assert image.max() > 1
    assert torch.equal(image.clamp(0, 1), vae.decode(latent))


def test_images_beyond_the_range_are_compared_as_they_are_seen(nodes, generator):
    """Values below 0 and above 1 are what some nodes give; they are shown and saved as 0 and 1."""
    image = torch.randn(1, 16, 16, 3, generator=generator)
    text, both = nodes.compare.Compare.execute(image, image).args
    assert text.splitlines() == [
        "PSNR-Y: infinite, no difference",
        "CIEDE2000 after low-pass: 0.00",
        "High-frequency energy ratio: 1.00",
    ]
    assert (both.min(), both.max()) == (0, 1)
    assert nodes.compare.Compare.execute(image, image.clamp(0, 1)).args[0] == text


def test_latents_are_sampled_as_by_the_core(nodes, base, latent_model, vae, photo):
    from flowmapsr.flowmapsr_core import upscale

    image, (model, own) = photo.movedim(1, -1), load(nodes, "latent.safetensors")
    latent = sampled(nodes, model, image)
    result = nodes.decode_tiled.DecodeTiled.execute(latent, own, 0).args[0]
    assert latent["samples"].shape == (1, 4, 12, 16)
    assert result.shape == image.shape
    expected = upscale(latent_model, photo, 1.0, steps=2, guidance=2.0, color="none").movedim(1, -1)
    assert expected.std() > 0.02
    # the core decodes what was added on the right and at the bottom too
    assert (result - expected)[:, :32, :32].abs().mean() < 0.01
    twice = sampled(nodes, model, torch.cat([image, 1 - image]))
    assert (twice["samples"][:1] - latent["samples"]).abs().max() < 1e-4


def test_a_connected_vae_does_the_work_of_the_models_own(nodes, latent_model, vae, photo):
    image, (bare, none) = photo.movedim(1, -1), load(nodes, "no vae.safetensors")
    own = sampled(nodes, load(nodes, "latent.safetensors")[0], image)
    assert (sampled(nodes, bare, image, vae=vae)["samples"] - own["samples"]).abs().max() < 1e-4
    for use in (lambda: sampled(nodes, bare, image), lambda: none.decode(own["samples"])):
        with pytest.raises(ValueError, match="has no VAE of its own"):
            use()


@pytest.mark.parametrize("width", [64, 32])
def test_a_model_with_a_tiny_vae(nodes, base, photo, generator, width):
    """ComfyUI has such VAEs too, of one width."""
    from flowmapsr.flowmapsr_core import FlowMap, Model, save_checkpoint, upscale
    from flowmapsr.flowmapsr_core.codecs import TinyVAECodec, TinyVAECodecConfig
    from flowmapsr.flowmapsr_core.networks import PRESETS, UNet

    codec = TinyVAECodec(TinyVAECodecConfig(scaling_factor=0.5, shift_factor=0.1, width=width))
    tiny = Model(FlowMap(UNet(PRESETS["tiny"])), codec)
    shake(tiny.flow, generator).requires_grad_(False).eval()
    shake(codec, generator)
    for weight in codec.vae.parameters():
        weight.mul_(0.7)  # residual blocks without norms grow
    path = base / "models" / "flowmapsr" / "tiny.safetensors"
    save_checkpoint(tiny, path)
    model, vae = load(nodes, path.name)
    path.unlink()
    image = photo[..., :88, :120]
    result = nodes.upscale.Upscale.execute(image.movedim(1, -1), 1.0, "balanced", model).args[0]
    assert (result.movedim(-1, 1) - upscale(tiny, image, 1.0)).abs().max() < 1e-3
    latent = sampled(nodes, model, image.movedim(1, -1))
    if width == 32:
        with pytest.raises(ValueError, match=r"VAE of tiny.safetensors has a shape that ComfyUI does not know"):
            vae.decode(latent["samples"])
        return
    expected = upscale(tiny, image, 1.0, color="none").movedim(1, -1)
    assert expected.std() > 0.02
    assert (vae.decode(latent["samples"]) - expected).abs().max() < 1e-3
    encoded = codec.encode(image) / 0.5 + 0.1
    assert (vae.encode(image.movedim(1, -1)) - encoded).abs().max() < 1e-3 * encoded.abs().max()


def test_the_whole_chain_of_a_latent_model(nodes, latent_model, photo):
    from flowmapsr.flowmapsr_core import upscale

    model, _ = load(nodes, "latent.safetensors")
    result = nodes.upscale.Upscale.execute(photo.movedim(1, -1), 1.5, "balanced", model).args[0]
    assert (result.movedim(-1, 1) - upscale(latent_model, photo, 1.5)).abs().max() < 1e-3


def test_weights_stored_in_8_bits(nodes, latent_model, photo, monkeypatch):
    from flowmapsr.nodes.comfyui import loading

    monkeypatch.setattr(loading, "LARGE", 1024)
    exact, small = load(nodes, "latent.safetensors")[0], load(nodes, "latent.safetensors", "fp8_e4m3fn")[0]
    assert {weight.dtype for weight in small.model.network.parameters()} >= {torch.float8_e4m3fn}
    assert small.model_size() < 0.6 * exact.model_size()
    image = photo.movedim(1, -1)
    one, other = (sampled(nodes, model, image, "1")["samples"] for model in (exact, small))
    assert 0 < (one - other).abs().mean() < 0.2 * one.abs().mean()


def test_a_small_model_in_8_bits(nodes, photo):
    """Its very first weight is among those that are stored in 8 bits."""
    exact, small = load(nodes, "local.safetensors")[0], load(nodes, "local.safetensors", "fp8_e4m3fn")[0]
    assert next(small.model.network.parameters()).dtype == torch.float8_e4m3fn
    assert small.model.dtype in (torch.float32, torch.bfloat16, torch.float16)
    image = photo.movedim(1, -1)
    one, other = (nodes.upscale.Upscale.execute(image, 1.0, "balanced", model).args[0] for model in (exact, small))
    assert 0 < (one - other).abs().mean() < 0.02


class Clip:
    """A text encoder whose pooled output is the length of the text."""

    def tokenize(self, text):
        return text

    def encode_from_tokens(self, tokens, return_pooled):
        return None, torch.full((1, 20), float(len(tokens)))


def test_prompts_that_are_learned_vectors_take_no_text(nodes, latent_model, base, photo):
    """As the core refuses them: the encoder makes something else of the negative prompt."""
    from flowmapsr.flowmapsr_core import FlowMap, Model, save_checkpoint

    path = base / "models" / "flowmapsr" / "learned.safetensors"
    learned = Model(FlowMap(latent_model.network), latent_model.codec)
    learned.flow.prompts["negative"].data.copy_(torch.linspace(-1, 1, 8))
    save_checkpoint(learned, path)
    model, image = load(nodes, path.name)[0], photo.movedim(1, -1)
    path.unlink()
    positive = [[None, {"pooled_output": torch.ones(1, 8)}]]
    for arguments in ({"prompt": "fur"}, {"positive": positive}):
        with pytest.raises(ValueError, match="prompts are not embeddings by the connected text encoders"):
            sampled(nodes, model, image, clip=Clip(), **arguments)


def test_prompts_of_the_users_own(nodes, latent_model, photo):
    model, _ = load(nodes, "latent.safetensors")
    image = photo.movedim(1, -1)
    pooled = torch.cat([torch.zeros(12), torch.full((8,), 4.0)])[None]
    positive = [[torch.zeros(1, 1, 1), {"pooled_output": pooled}]]
    usual = sampled(nodes, model, image)["samples"]
    by_text = sampled(nodes, model, image, prompt="fur!", clip=Clip())["samples"]
    by_conditioning = sampled(nodes, model, image, positive=positive)["samples"]
    assert (by_text - by_conditioning).abs().max() < 1e-4
    assert (by_text - usual).abs().max() > 1e-3
    assert (sampled(nodes, model, image)["samples"] - usual).abs().max() < 1e-4
    small = [[None, {"pooled_output": pooled[:, :4]}]]
    for arguments, message in (
        ({"prompt": "fur"}, "connect clip"),
        ({"prompt": "fur", "positive": positive}, "two prompts"),
        ({"positive": small}, "8 numbers, there is 4 numbers"),
        ({"positive": [[None, {}]]}, "there is none"),
    ):
        with pytest.raises(ValueError, match=message):
            sampled(nodes, model, image, **arguments)
    with pytest.raises(ValueError, match="reads no text"):
        sampled(nodes, load(nodes, "built-in")[0], image, prompt="fur", clip=Clip())


@pytest.mark.parametrize("method", ["none", "auto"])
def test_previews_are_rendered_if_the_user_wants_any(nodes, photo, monkeypatch, method):
    import comfy.utils
    from comfy.cli_args import LatentPreviewMethod, args
    from flowmapsr.flowmapsr_core.upscaling.preview import Preview

    shown, rendered = [], []
    image_of = Preview.image
    monkeypatch.setattr(Preview, "image", lambda preview: rendered.append(1) or image_of(preview))
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda done, total, preview, **_: shown.append(preview))
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod(method))
    nodes.upscale.Upscale.execute(photo.movedim(1, -1), 2.0, "balanced", load(nodes, "local.safetensors")[0])
    assert len(shown) > 1
    assert len(rendered) > 0 if method == "auto" else not rendered
    assert all((preview is None) == (method == "none") for preview in shown)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_have_three_or_four_channels(nodes, latent_model, channels):
    """Some nodes pass masks, depths and layers on as images."""
    image, rgb = torch.rand(1, 16, 16, channels), torch.rand(1, 16, 16, 3)
    model = load(nodes, "built-in")[0]
    for run in (
        lambda: sampled(nodes, model, image),
        lambda: nodes.upscale.Upscale.execute(image, 2.0, "balanced", model),
        lambda: nodes.degrade.Degrade.execute(image, 2.0, "bicubic", 0),
        lambda: nodes.match_color.MatchColor.execute(rgb, image, "adain", 1.0),
        lambda: nodes.compare.Compare.execute(image, rgb),
        lambda: nodes.load_low_res.LoadLowRes.execute("", "factor", 2.0, 64, 1.0, image),
    ):
        with pytest.raises(ValueError, match=rf"has {channels} channel\(s\); connect one with 3"):
            run()


def test_wrong_wiring(nodes, latent_model, vae, photo):
    import comfy.sd
    from comfy.taesd.taesd import TAESD

    image, (model, _) = photo.movedim(1, -1), load(nodes, "no vae.safetensors")
    _, pixels = load(nodes, "local.safetensors")
    with pytest.raises(ValueError, match="latent has 4 channels, this VAE takes 12"):
        decoded(nodes, torch.zeros(1, 4, 8, 8), pixels)
    for other in (pixels, comfy.sd.VAE(sd=TAESD(latent_channels=16).state_dict())):
        with pytest.raises(ValueError, match=r"channels.*this model works on 4 channels, 8 pixels a cell"):
            sampled(nodes, model, image, vae=other)
    with pytest.raises(ValueError, match="image is 122x7 pixels; the smallest is 8x8"):
        sampled(nodes, model, image[:, :7], vae=vae)


def test_a_vae_of_other_latents(nodes, latent_model, base, photo, generator):
    """Of the same shape, as SD 1.5's is of SDXL's."""
    from flowmapsr.flowmapsr_core import Model, save_checkpoint
    from flowmapsr.flowmapsr_core.codecs import VAECodec

    other = shake(VAECodec(latent_model.codec.config), generator)
    path = base / "models" / "flowmapsr" / "other.safetensors"
    save_checkpoint(Model(latent_model.flow, other), path)
    model, vae = load(nodes, "no vae.safetensors")[0], load(nodes, "other.safetensors")[1]
    path.unlink()
    with pytest.raises(ValueError, match="makes other latents than this model was trained on"):
        sampled(nodes, model, photo.movedim(1, -1), vae=vae)


def test_tiles_of_ones_choice(nodes, latent_model, photo):
    from torch.nn.functional import interpolate

    model, _ = load(nodes, "latent.safetensors")
    image = interpolate(photo, scale_factor=3).movedim(1, -1)
    whole = sampled(nodes, model, image)["samples"]
    tiled = sampled(nodes, model, image, tile=128, overlap=32)["samples"]
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().max() > 1e-3
