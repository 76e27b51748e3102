import json
import pickle
import zipfile

import pytest
import torch
from flowmapsr.flowmapsr_core import load_model, save_checkpoint
from flowmapsr.flowmapsr_core.errors import UserError
from flowmapsr.flowmapsr_core.files.checkpoint import describe
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file


@pytest.fixture
def saved(small_model, tmp_path):
    small_model.info = {"title": "Small", "license": "Apache-2.0", "training": {"steps": 3}}
    save_checkpoint(small_model, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def rewrite(path, change_tensors=lambda t: t, **changed):
    """The file again with other tensors or metadata."""
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **changed}
    tensors = change_tensors(load_file(path))
    target = path.with_name("changed.safetensors")
    save_file(tensors, target, metadata)
    return target


def test_round_trip_is_exact(small_model, saved):
    loaded = load_model(saved)
    assert loaded.config() == small_model.config()
    assert loaded.info["title"] == "Small"
    assert loaded.info["training"] == {"steps": 3}
    for (name, before), after in zip(small_model.tensors().items(), loaded.tensors().values(), strict=True):
        assert torch.equal(before, after), name
    x, one, zero = torch.randn(1, 12, 8, 8), torch.ones(1), torch.zeros(1)
    assert torch.allclose(small_model.velocity(2.0)(x, one, zero), loaded.velocity(2.0)(x, one, zero), atol=1e-6)


def test_others_may_read_it_as_any_file_of_its_folder(saved):
    other = saved.with_name("other")
    other.touch()
    assert saved.stat().st_mode == other.stat().st_mode


def test_a_header_length_that_begins_like_a_pickle_is_no_pickle(saved):
    """A safetensors file begins with its header's length, any number: 0x80, say, as pickles do."""
    content = saved.read_bytes()
    length = int.from_bytes(content[:8], "little")
    padding = (0x80 - length) % 256  # spaces after the header are allowed
    path = saved.with_name("padded.safetensors")
    header = content[8 : 8 + length] + b" " * padding
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    assert path.read_bytes()[:1] == b"\x80"
    assert describe(path)["kind"] == "checkpoint"


def test_half_precision_file_loads_in_any_precision(small_model, tmp_path):
    save_checkpoint(small_model, tmp_path / "half.safetensors", torch.float16)
    assert load_model(tmp_path / "half.safetensors").dtype == torch.float32
    assert load_model(tmp_path / "half.safetensors", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_description(saved):
    described = describe(saved)
    assert described["kind"] == "checkpoint"
    assert described["config"]["network"]["type"] == "LocalNet"
    assert described["modelspec.title"] == "Small"
    assert described["dtypes"] == ["F32"]
    assert described["weights"] > 1000


def test_changed_weights_are_saved_with_their_own_hash(saved, tmp_path):
    model = load_model(saved)
    with torch.no_grad():
        model.flow.prompts["positive"].add_(1)
    save_checkpoint(model, tmp_path / "changed.safetensors")
    before, after = describe(saved), describe(tmp_path / "changed.safetensors")
    assert before["modelspec.hash_sha256"] != after["modelspec.hash_sha256"]
    assert after["modelspec.title"] == "Small"


def test_nothing_is_left_behind_when_writing_fails(small_model, saved, monkeypatch):
    before = saved.read_bytes()

    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flowmapsr.flowmapsr_core.files.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(small_model, saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_full_disk_is_an_os_error(small_model, saved, monkeypatch):
    """safetensors has an error of its own for that."""

    def fail(tensors, path, metadata):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("flowmapsr.flowmapsr_core.files.checkpoint.save_file", fail)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(small_model, saved)


def test_files_that_are_no_checkpoint(saved, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_model(tmp_path / "missing.safetensors")
    pickled = tmp_path / "model.safetensors"
    pickled.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="pickled"):
        load_model(pickled)
    zipped = tmp_path / "model.ckpt"
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("archive/data.pkl", "x")
    with pytest.raises(UserError, match="pickled"):
        load_model(zipped)
    text = tmp_path / "text.safetensors"
    text.write_text("not a model")
    with pytest.raises(UserError, match="not a safetensors file"):
        load_model(text)
    empty = tmp_path / "empty.safetensors"
    empty.write_bytes(b"")
    with pytest.raises(UserError, match="not a safetensors file"):
        load_model(empty)
    for keep in (len(saved.read_bytes()) - 100, 400):
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(saved.read_bytes()[:keep])
        with pytest.raises(UserError, match="truncated"):
            load_model(cut)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"model.diffusion_model.weight": torch.zeros(3)}, foreign)
    with pytest.raises(UserError, match="not a FlowMapSR checkpoint"):
        load_model(foreign)
    assert describe(foreign)["kind"] == "other"


def test_checkpoints_that_do_not_fit(saved):
    def without(tensors):
        del tensors["network.stem.bias"]
        return tensors

    with pytest.raises(UserError, match=r"network\.stem\.bias is missing"):
        load_model(rewrite(saved, without))
    with pytest.raises(UserError, match=r"network\.more is unknown"):
        load_model(rewrite(saved, lambda t: {**t, "network.more": torch.zeros(1)}))
    with pytest.raises(UserError, match=r"network\.stem\.bias is \[3\], not \[8\]"):
        load_model(rewrite(saved, lambda t: {**t, "network.stem.bias": torch.zeros(3)}))
    with pytest.raises(UserError, match="format 2"):
        load_model(rewrite(saved, format_version="2"))
    config = json.dumps({"network": {"type": "OtherNet"}, "codec": {"type": "PixelCodec"}})
    with pytest.raises(UserError, match="OtherNet"):
        load_model(rewrite(saved, config=config))
