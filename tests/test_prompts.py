import json
import sys

import pytest
import torch
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.files.prompts import encode_prompts, set_prompt
from flowmapsr.flowmapsr_core.model import NEGATIVE_PROMPT, POSITIVE_PROMPT
from flowmapsr.trainer.recipe.read import read_recipe
from flowmapsr.trainer.run.start import build_model
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

TOKENS = ["a", "b", "c", "a</w>", "b</w>", "c</w>", "<|startoftext|>", "<|endoftext|>"]
CONFIG = CLIPTextConfig(
    vocab_size=len(TOKENS),
    hidden_size=16,
    intermediate_size=16,
    projection_dim=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=6,
    bos_token_id=6,
    eos_token_id=7,
    pad_token_id=7,
)


def write_tokenizer(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(TOKENS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return CLIPTextModelWithProjection(CONFIG).eval()


@pytest.fixture
def folder(encoder, tmp_path):
    """A text encoder and its tokenizer in one folder."""
    encoder.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    return tmp_path


@torch.no_grad()
def test_equals_the_encoder_itself(encoder, folder):
    embeddings = encode_prompts(folder, ["a b", "b c a b a b", "C"])
    assert embeddings.shape == (3, 12)
    for embedding, tokens in zip(embeddings, ([6, 3, 4, 7], [6, 4, 5, 3, 4, 7], [6, 5, 7]), strict=True):
        assert torch.allclose(embedding, encoder(torch.tensor([tokens])).text_embeds[0], atol=1e-6)
    assert not torch.allclose(embeddings[0], embeddings[1], atol=1e-2)


def test_takes_the_second_encoder_of_an_sdxl_folder(encoder, folder, tmp_path):
    sdxl = tmp_path / "sdxl"
    encoder.half().save_pretrained(sdxl / "text_encoder_2")
    write_tokenizer(sdxl / "tokenizer_2")
    embeddings = encode_prompts(sdxl, ["a b", "c"])
    assert embeddings.dtype == torch.float32
    assert not embeddings.requires_grad
    assert torch.allclose(embeddings, encode_prompts(folder, ["a b", "c"]), atol=1e-2)


def test_a_model_gets_its_prompts_from_the_encoder(folder, recipe_file):
    set_folder = f"prompts.text_encoder={folder}"
    recipe = read_recipe(recipe_file, [set_folder, "model.network.prompt_dim=12"])
    model, _ = build_model(recipe)
    expected = encode_prompts(folder, [POSITIVE_PROMPT, NEGATIVE_PROMPT])
    assert torch.equal(torch.stack([model.flow.prompts["positive"], model.flow.prompts["negative"]]), expected)
    assert not model.flow.prompts["positive"].requires_grad
    with pytest.raises(UserError, match="gives 12 numbers, the network takes 4"):
        build_model(read_recipe(recipe_file, [set_folder]))


def test_says_that_the_folder_is_missing(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        encode_prompts(tmp_path / "nowhere", ["a"])


def test_says_that_there_is_no_text_encoder(tmp_path):
    with pytest.raises(UserError, match="holds no CLIP text encoder"):
        encode_prompts(tmp_path, ["a"])


def test_refuses_pickled_weights(encoder, folder):
    (folder / "model.safetensors").unlink()
    torch.save(encoder.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="with safetensors weights"):
        encode_prompts(folder, ["a"])


def test_says_that_the_weights_are_damaged(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(UserError, match="can be read"):
        encode_prompts(folder, ["a"])


def test_says_that_the_encoder_has_no_projection(folder):
    CLIPTextModel(CONFIG).save_pretrained(folder)
    with pytest.raises(UserError, match=r"lacks text_projection\.weight"):
        encode_prompts(folder, ["a"])


@pytest.mark.parametrize("missing", [["vocab.json"], ["merges.txt"], ["vocab.json", "merges.txt"]])
def test_says_that_the_tokenizer_is_missing(folder, missing):
    for name in missing:
        (folder / name).unlink()
    with pytest.raises(UserError, match="tokenizer"):
        encode_prompts(folder, ["a"])


def test_says_how_to_install_transformers(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="pip install transformers"):
        encode_prompts(folder, ["a"])


@pytest.fixture
def baked(small_model, folder):
    """A model whose prompts are the encoder's embeddings."""
    small_model.flow.prompts = torch.nn.ParameterDict(
        zip(("positive", "negative"), encode_prompts(folder, [POSITIVE_PROMPT, NEGATIVE_PROMPT]), strict=True)
    )
    small_model.flow.requires_grad_(False)
    return small_model


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_a_text_replaces_the_positive_prompt(baked, folder, dtype, rounding):
    baked.set_precision(dtype)
    negative = baked.flow.prompts["negative"].clone()
    set_prompt(baked, "b b", folder)
    expected = encode_prompts(folder, ["b b"])[0].to(dtype)
    assert torch.allclose(baked.flow.prompts["positive"], expected, rtol=0, atol=rounding)
    assert torch.equal(baked.flow.prompts["negative"], negative)
    set_prompt(baked, "c", folder)  # a second one needs no fresh model


def test_a_text_needs_the_encoder_that_the_model_was_made_with(baked, small_model, folder, tmp_path):
    positive = baked.flow.prompts["positive"].clone()
    with pytest.raises(UserError, match="needs a text encoder"):
        set_prompt(baked, "a", None)
    torch.manual_seed(1)
    other = tmp_path / "other"
    CLIPTextModelWithProjection(CONFIG).save_pretrained(other)
    write_tokenizer(other)
    with pytest.raises(UserError, match="not embeddings by the text encoder"):
        set_prompt(baked, "a", other)
    assert torch.equal(baked.flow.prompts["positive"], positive)


def test_learned_prompts_take_no_text(small_model, folder):
    with pytest.raises(UserError, match="not embeddings by the text encoder"):
        set_prompt(small_model, "a", folder)
