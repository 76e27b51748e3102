import math

import pytest
import torch
from flowmapsr.trainer.losses.adversarial import (
    PatchDiscriminator,
    ScoreGap,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    last_jump,
)
from gaussian_flow import GaussianFlow


@pytest.mark.parametrize(("channels", "size", "scores"), [(4, (24, 24), (1, 1)), (12, (64, 47), (6, 3))])
def test_discriminator_scores_patches(channels, size, scores):
    assert PatchDiscriminator(channels)(torch.zeros(2, channels, *size)).shape == (2, 1, *scores)


def test_a_score_sees_70_cells():
    x = torch.randn(1, 1, 96, 96, requires_grad=True)
    layers = [module for module in PatchDiscriminator(1) if not isinstance(module, torch.nn.GroupNorm)]
    torch.nn.Sequential(*layers)(x)[0, 0, 5, 5].backward()
    rows = x.grad[0, 0].abs().sum(dim=1).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == 70


@pytest.mark.parametrize("loss", [generator_loss, discriminator_loss])
def test_equal_scores_cost_log_2(loss, generator):
    scores = torch.randn(3, 1, 2, 2, generator=generator)
    assert math.isclose(loss(scores, scores), math.log(2), rel_tol=1e-6)


@pytest.mark.parametrize("loss", [generator_loss, discriminator_loss])
def test_losses_raise_the_first_scores_over_the_second(loss, generator):
    first, second = torch.randn(2, 3, 1, 2, 2, generator=generator).unbind()
    first.requires_grad_()
    second.requires_grad_()
    loss(first, second).backward()
    assert (first.grad < 0).all()
    assert torch.allclose(first.grad, -second.grad)
    assert torch.allclose(first.grad, -torch.sigmoid(second - first).detach() / 12)


@pytest.mark.parametrize("evaluations", [1, 2])
def test_exact_jumps_reach_x0(evaluations, generator):
    x0, x1 = torch.randn(2, 3, 4, 2, 2, generator=generator, dtype=torch.float64).unbind()
    assert torch.allclose(last_jump(lambda x, t, s: x1 - x0, x1, evaluations), x0, atol=1e-13)
    flow = GaussianFlow()
    end = flow.map(x1, torch.ones(3), torch.zeros(3))
    assert torch.allclose(last_jump(flow.u, x1, evaluations), end, atol=1e-6)


@pytest.mark.parametrize(
    ("evaluations", "gradient"),
    # x0' = (1 - a / 2) x_h with x_h = (1 - a / 2) x1 held fixed; x0' = (1 - a) x1
    [(2, 2 * -0.5 * 0.8 * 3.0), (1, 2 * -3.0)],
)
def test_only_the_last_jump_gets_gradient(evaluations, gradient):
    x1 = torch.full((2, 1, 1, 1), 3.0)
    a = torch.tensor(0.4, requires_grad=True)
    last_jump(lambda x, t, s: a * x, x1, evaluations).sum().backward()
    assert math.isclose(a.grad, gradient, rel_tol=1e-6)


def test_gradient_penalty_of_a_linear_discriminator(generator):
    linear = torch.nn.Conv2d(2, 1, 5)  # one score of a 5 x 5 latent
    penalty = gradient_penalty(linear, torch.randn(3, 2, 5, 5, generator=generator))
    assert torch.allclose(penalty, linear.weight.square().sum())
    penalty.backward()
    assert torch.allclose(linear.weight.grad, 2 * linear.weight)


def test_discriminator_learns_to_tell_latents_apart(generator):
    torch.manual_seed(0)
    discriminator, gap = PatchDiscriminator(4), ScoreGap()
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3)
    noise = torch.randn(2, 4, 4, 24, 24, generator=generator)
    sharp, blurred = noise[0], torch.nn.functional.avg_pool2d(noise[1], 3, 1, 1)
    for _ in range(8):
        real, fake = discriminator(sharp), discriminator(blurred)
        loss = discriminator_loss(real, fake)
        (loss + 0.01 * gradient_penalty(discriminator, sharp)).backward()
        optimizer.step()
        optimizer.zero_grad()
        gap.update((real - fake).mean().item())
    assert loss < 0.1
    assert gap.mean > 1


def test_score_gap_is_a_running_mean():
    gap = ScoreGap(decay=0.5)
    assert [gap.update(difference) for difference in (4.0, 2.0, 0.0)] == [4.0, 3.0, 1.5]
    for _ in range(40):
        gap.update(0.0)
    assert abs(gap.mean) < 1e-9
