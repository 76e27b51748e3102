import pytest
import torch
from flowmapsr.trainer.losses.weighting import LossWeight


@pytest.fixture
def weight():
    torch.manual_seed(0)
    return LossWeight()


def test_starts_as_the_plain_loss(weight, generator):
    loss, t, s = torch.rand(3, 8, generator=generator)
    assert torch.equal(weight(loss, t, s), loss)


def test_learns_the_expected_loss_of_every_time(weight, generator):
    times = torch.tensor([1 / 128, 0.25, 0.5, 1.0])
    levels = torch.tensor([1.0, 0.3, 0.05, 0.01])
    loss = levels * torch.empty(100, 4).exponential_(generator=generator)
    expected = loss.mean(dim=0)
    t = times.expand(100, 4).flatten()
    optimizer = torch.optim.Adam(weight.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=200)
    for _ in range(200):
        weight(loss.flatten(), t, t).mean().backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    with torch.no_grad():
        psi = weight.psi(times, times)
        assert torch.allclose(psi.exp(), expected, rtol=0.02)
        # every time now weighs the same: the weighted loss is 1 + psi
        assert torch.allclose(weight(expected, times, times) - psi, torch.ones(4), rtol=0.02)


def test_stays_in_float32_under_autocast(weight):
    loss, t, s = torch.tensor([[0.1, 0.2], [1.0, 0.7], [0.3, 0.0]])
    torch.nn.init.normal_(weight.layers[-1].weight)
    expected = weight(loss, t, s)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(weight(loss.bfloat16().float(), t, s), weight(loss.bfloat16(), t, s))
        assert torch.equal(weight(loss, t, s), expected)
