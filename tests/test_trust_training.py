"""Training what says how far an LR image can be trusted."""

import torch
from flowmapsr.flowmapsr_core import save_checkpoint
from flowmapsr.flowmapsr_core.images import trust
from flowmapsr.flowmapsr_core.images.color import residual_bands
from flowmapsr.flowmapsr_core.images.resize import resize
from flowmapsr.trainer.tools import trust as training
from flowmapsr.trainer.tools.trust import Example, main, trust_loss


class Told(torch.nn.Module):
    """Shares that are given, one a band."""

    def __init__(self, *shares):
        super().__init__()
        self.shares = torch.nn.Parameter(torch.tensor(shares).reshape(1, -1, 1, 1))

    def forward(self, lr, bands):
        return self.shares


def test_the_best_share_is_that_of_what_was_lost(photo, monkeypatch):
    """The LR image holds half of what the result lacks."""
    monkeypatch.setattr(training, "COST", 0)
    lr = resize(photo, (48, 64))
    sr = resize(lr, (96, 128))
    residual = 0.05 * (resize(torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0)), (48, 64)) - 0.5)
    lr = resize(sr, (48, 64)) + residual
    coarse, bands = residual_bands(sr, lr)
    hr = sr + resize(coarse + 2 * sum(bands), (96, 128))
    told = Told(0.3, 0.3)
    optimizer = torch.optim.Adam(told.parameters(), 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        trust_loss(told, Example(sr, lr, hr)).backward()
        optimizer.step()
    assert (told.shares.detach().flatten() - 2).abs().max() < 0.1


def test_the_command_writes_what_is_loaded(small_model, photos, tmp_path, capsys, monkeypatch):
    save_checkpoint(small_model, tmp_path / "model.safetensors")
    made = tmp_path / "trust.safetensors"
    arguments = [str(photos), "--models", str(tmp_path / "model.safetensors"), "--output", str(made)]
    assert main([*arguments, "--examples", "2", "--steps", "2"]) == 0
    assert str(made) in capsys.readouterr().out
    monkeypatch.setattr(trust, "FILE", made)
    trust.load_trust.cache_clear()
    shares = trust.load_trust(torch.device("cpu"))(torch.rand(1, 3, 16, 24), list(torch.rand(2, 1, 3, 16, 24)))
    trust.load_trust.cache_clear()
    assert shares.shape == (1, 2, 16, 24)


def test_a_folder_that_is_none_is_said(tmp_path, capsys):
    assert main([str(tmp_path / "none"), "--output", str(tmp_path / "trust.safetensors")]) == 2
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "trust.safetensors").exists()
