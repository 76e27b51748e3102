import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from flowmapsr.flowmapsr_core import load_model, save_checkpoint
from flowmapsr.flowmapsr_core.codecs import VAECodec, VAECodecConfig
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.files.sources import SHIPPED, find_model
from flowmapsr.flowmapsr_core.model import FlowMap, Model
from flowmapsr.flowmapsr_core.networks import PRESETS, UNet
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parent.parent
VAE = VAECodecConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=0.5)


@pytest.fixture
def latent_model():
    """A small UNet and its VAE, weights that are not zero."""
    torch.manual_seed(0)
    model = Model(FlowMap(UNet(PRESETS["tiny"])), VAECodec(VAE))
    with torch.no_grad():
        for parameter in [*model.network.parameters(), *model.flow.prompts.parameters()]:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.flow.requires_grad_(False).eval()
    return model


def save_folder(model, folder):
    """A FlowMapSR model in diffusers' layout."""
    model.network.unet.save_pretrained(folder / "unet")
    model.codec.vae.save_pretrained(folder / "vae")
    save_file({name: prompt.detach() for name, prompt in model.flow.prompts.items()}, folder / "prompts.safetensors")
    return folder


def same_weights(a, b):
    state, other = a.tensors(), b.tensors()
    return state.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in state.items())


# ---------------------------------------------------------------------------------------------------- files and folders


def test_a_name_or_a_file_is_itself(tmp_path):
    for name, file in SHIPPED.items():
        assert find_model(name) == find_model(Path(name)) == file
        assert file.is_file()
    assert find_model(tmp_path / "any.safetensors") == tmp_path / "any.safetensors"


def test_what_is_shipped_is_at_most_40_mb():
    assert sum(file.stat().st_size for file in set(SHIPPED.values())) <= 40e6


def test_a_folder_stands_for_its_one_checkpoint(small_model, tmp_path):
    (tmp_path / "broken.safetensors").write_text("no checkpoint")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"no FlowMapSR checkpoint .* but broken\.safetensors, .* 'flowmapsr convert'"):
        find_model(tmp_path)
    save_checkpoint(small_model, tmp_path / "b.safetensors")
    assert find_model(str(tmp_path)) == tmp_path / "b.safetensors"
    assert same_weights(load_model(tmp_path), small_model)
    save_checkpoint(small_model, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"several .*\(a\.safetensors, b\.safetensors\); give one: .*/a\.safetensors"):
        find_model(tmp_path)


def test_a_folder_in_the_layout_of_diffusers(latent_model, tmp_path):
    loaded = load_model(save_folder(latent_model, tmp_path))
    assert same_weights(loaded, latent_model)
    assert loaded.network.config == latent_model.network.config
    assert loaded.codec.config == latent_model.codec.config
    assert load_model(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_folder_may_lack_prompts_but_no_vae(latent_model, tmp_path):
    folder = save_folder(latent_model, tmp_path / "model")
    (folder / "prompts.safetensors").unlink()
    assert load_model(folder).flow.prompts["positive"].abs().max() == 0
    (folder / "vae").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="comes without its VAE"):
        load_model(folder)
    expected = latent_model.codec.state_dict()
    for vae in (tmp_path / "elsewhere", latent_model.codec):
        found = load_model(folder, vae=vae).codec.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_a_vae_beside_a_checkpoint_is_used_if_that_has_none(latent_model, tmp_path):
    latent_model.codec.vae.save_pretrained(tmp_path / "vae")
    with torch.device("meta"):
        without = Model(latent_model.flow, VAECodec(VAE))
    save_checkpoint(without, tmp_path / "model.safetensors")
    for name in (tmp_path, tmp_path / "model.safetensors"):
        assert same_weights(load_model(name), latent_model)
    (tmp_path / "vae" / "config.json").unlink()
    with pytest.raises(UserError, match="comes without its VAE"):
        load_model(tmp_path)


def test_folders_that_do_not_fit(latent_model, tmp_path):
    folder = save_folder(latent_model, tmp_path / "model")
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=16).save_pretrained(tmp_path / "wide")
    with pytest.raises(UserError, match="16 channels, the UNet 4"):
        load_model(folder, vae=tmp_path / "wide")
    save_file({"positive": torch.zeros(8), "negative": torch.zeros(9)}, folder / "prompts.safetensors")
    with pytest.raises(UserError, match=r"prompts\.safetensors does not fit .*negative is \[9\], not \[8\]"):
        load_model(folder)
    (weights,) = (folder / "unet").glob("*.safetensors")
    tensors = load_file(weights)
    save_file({name: tensor for name, tensor in tensors.items() if name != "conv_in.bias"}, weights)
    with pytest.raises(UserError, match=r"conv_in\.bias is missing"):
        load_model(folder)
    config = folder / "unet" / "config.json"
    save_file(tensors, weights)
    config.write_text(json.dumps({**json.loads(config.read_text()), "norm_eps": 0.1}))
    with pytest.raises(UserError, match=r"norm_eps is 0\.1"):
        load_model(folder)
    weights.unlink()
    with pytest.raises(UserError, match=r"has no diffusion_pytorch_model\.safetensors"):
        load_model(folder)


def test_another_models_unet_is_to_be_converted(tmp_path):
    UNet2DConditionModel(block_out_channels=(8, 8), norm_num_groups=4, cross_attention_dim=8, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).save_pretrained(tmp_path / "unet")  # fmt: skip
    with pytest.raises(UserError, match=r"another model's UNet.*'flowmapsr convert'"):
        load_model(tmp_path)


# ------------------------------------------------------------------------------------------------------------- the Hub


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The Hub's cache, empty, and no downloads."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder


def put_in(cache, name):
    """Folder of a repository that was downloaded."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    return snapshot


def test_a_repository_that_was_downloaded(cache, small_model, latent_model):
    snapshot = put_in(cache, "someone/upscaler")
    save_checkpoint(small_model, snapshot / "one.safetensors")
    assert same_weights(load_model("hub:someone/upscaler"), small_model)
    assert find_model(Path("hub:someone/upscaler")) == snapshot / "one.safetensors"
    save_checkpoint(small_model, snapshot / "two.safetensors")
    with pytest.raises(UserError, match=r"several .*give one: hub:someone/upscaler/one\.safetensors"):
        find_model("hub:someone/upscaler")
    assert find_model("hub:someone/upscaler/two.safetensors") == snapshot / "two.safetensors"
    with pytest.raises(UserError, match=r"the repository has no three\.safetensors"):
        find_model("hub:someone/upscaler/three.safetensors")
    save_folder(latent_model, put_in(cache, "someone/folder"))
    assert same_weights(load_model("hub:someone/folder"), latent_model)


def test_only_what_is_needed_is_downloaded(cache, monkeypatch, tmp_path):
    asked = {}

    def download(name, **patterns):
        asked[name] = patterns["allow_patterns"]
        return str(put_in(cache, name))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError):
        find_model("hub:a/whole")
    with pytest.raises(UserError):
        find_model("hub:a/part/x.safetensors")
    assert asked["a/whole"] == ["*.safetensors", "*.json"]
    assert asked["a/part"] == ["x.safetensors", "vae/*.safetensors", "vae/*.json"]
    for name in ("built-in", tmp_path / "file.safetensors"):
        find_model(name)
    assert len(asked) == 2  # nothing unless asked for


def test_says_why_there_is_no_repository(cache, monkeypatch):
    with pytest.raises(UserError, match=r"hub:a/b was not downloaded yet, and HF_HUB_OFFLINE forbids it"):
        find_model("hub:a/b")
    for name in ("hub:", "hub:upscaler", "hub:/x"):
        with pytest.raises(UserError, match="write hub:OWNER/NAME"):
            find_model(name)
    with pytest.raises(UserError, match="is not a repository's name"):
        find_model("hub:a/b..c")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for kind, message in {
        RepositoryNotFoundError: "no such repository",
        LocalEntryNotFoundError: "cannot be reached",
        HfHubHTTPError: "cannot be downloaded",
        OSError: "cannot be downloaded",
    }.items():

        def fail(*_, kind=kind, **__):
            raise kind.__new__(kind)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        with pytest.raises(UserError, match=f"hub:a/b.*{message}"):
            find_model("hub:a/b")


def test_the_switches_of_the_hub_are_respected(tmp_path):
    """As a user sets them: the cache and the offline switch are read from the environment."""
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "flowmapsr.flowmapsr_core", "upscale", ROOT / "tests" / "data" / "jetty.png",
         "--output", tmp_path / "x.png", "--model", "hub:someone/upscaler"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("flowmapsr: error: hub:someone/upscaler was not downloaded")
