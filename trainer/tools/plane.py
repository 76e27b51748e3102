"""Every objective on problems in the plane whose flow map is known.

``python -m flowmapsr.trainer.tools.plane`` trains one small network per problem and objective and prints the error
of its map after 1, 2, 4 and 8 steps: the root mean square distance to the true map, relative to the true displacement.
"""

import argparse
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor, nn

from ...flowmapsr_core.method.flow import Velocity, conditional_velocity, interpolant, sample
from ..data.time_pairs import TimePairs
from ..objectives import JUMPS, shortcut_target

OBJECTIVES = ("flow-matching", *JUMPS)
STEPS = (1, 2, 4, 8)
BATCH = 512
POINTS = 4096  # where the map is compared


@dataclass(frozen=True)
class Problem:
    """x0 from equally likely Gaussians, x1 from one, independent of each other.

    Attributes:
        means: means of x0's Gaussians (K, 2).
        std0: their common standard deviations (2,).
        mean1, std1: x1's mean and standard deviations (2,).
    """

    means: Tensor
    std0: Tensor
    mean1: Tensor
    std1: Tensor

    def pairs(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Samples of x0 and x1, both (n, 2)."""
        kind = torch.randint(len(self.means), (n,), generator=generator)
        x0, x1 = torch.randn(2, n, 2, generator=generator)
        return self.means[kind] + self.std0 * x0, self.mean1 + self.std1 * x1

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """The marginal velocity ``E[x1 - x0 | x_t = x]`` of points (n, 2): a mean over x0's Gaussians k."""
        variance = (1 - t) ** 2 * self.std0**2 + t**2 * self.std1**2
        offset = x - ((1 - t) * self.means + t * self.mean1)[:, None]  # (K, n, 2)
        share = (-offset.square() / (2 * variance)).sum(dim=-1, keepdim=True).softmax(dim=0)
        growth = (t * self.std1**2 - (1 - t) * self.std0**2) / variance
        return (share * ((self.mean1 - self.means)[:, None] + growth * offset)).sum(dim=0)

    def map(self, x1: Tensor, steps: int = 256) -> Tensor:
        """The true map from time 1 to time 0, by Runge-Kutta steps of order 4 in float64; x1 (n, 2)."""
        x, h = x1.double(), 1 / steps
        for t in (1 - k * h for k in range(steps)):
            a = self.velocity(x, t)
            b = self.velocity(x - h / 2 * a, t - h / 2)
            c = self.velocity(x - h / 2 * b, t - h / 2)
            d = self.velocity(x - h * c, t - h)
            x = x - h / 6 * (a + 2 * b + 2 * c + d)
        return x.float()


PROBLEMS = {
    "Gaussian pair": Problem(
        means=torch.tensor([[1.5, -0.5]]),
        std0=torch.tensor([0.4, 1.2]),
        mean1=torch.zeros(2),
        std1=torch.ones(2),
    ),
    "three Gaussians": Problem(
        means=torch.tensor([[1.5, 0.0], [-0.75, 1.3], [-0.75, -1.3]]),
        std0=torch.full((2,), 0.4),
        mean1=torch.zeros(2),
        std1=torch.ones(2),
    ),
}


class Network(nn.Module):
    """The average velocity (n, 2) of points x (n, 2) at times t, s (n,)."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        hidden = [layer for _ in range(2) for layer in (nn.Linear(width, width), nn.SiLU())]
        self.layers = nn.Sequential(nn.Linear(4, width), nn.SiLU(), *hidden, nn.Linear(width, 2))

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.layers(torch.cat([x, t[:, None], s[:, None]], dim=1))


def train(problem: Problem, objective: str, steps: int) -> Velocity:
    """A network trained on 75 % flow matching and 25 % jumps of an objective; the same seed for all of them."""
    torch.manual_seed(0)
    generator = Generator().manual_seed(0)
    times = TimePairs()
    jumps = 0 if objective == "flow-matching" else round(times.jumps * BATCH)
    target_of = {**JUMPS, "shortcut": partial(shortcut_target, finest=times.finest)}
    network = Network()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x0, x1 = problem.pairs(BATCH, generator)
        pairs = times.shortcut if objective == "shortcut" else times.intervals
        t, s = map(torch.cat, zip(pairs(jumps, generator), times.flow_matching(BATCH - jumps, generator), strict=True))
        if objective == "straight":  # its pairs are a teacher's: here x0 is where the true map takes x1
            x0[:jumps] = problem.map(x1[:jumps], steps=16)
        x_t, v = interpolant(x0, x1, t), conditional_velocity(x0, x1)
        target = v.clone()
        if jumps:
            # A network this small is stable as its own teacher; no average of its weights is needed.
            with torch.no_grad():
                target[:jumps] = target_of[objective](network, x_t[:jumps], v[:jumps], t[:jumps], s[:jumps])
        optimizer.zero_grad()
        (network(x_t, t, s) - target).square().mean().backward()
        optimizer.step()
        schedule.step()
    return network if jumps else lambda x, t, s: network(x, t, t)


@torch.no_grad()
def errors(problem: Problem, u: Velocity) -> list[float]:
    """Relative error of the map that u makes in 1, 2, 4 and 8 steps."""
    _, x1 = problem.pairs(POINTS, Generator().manual_seed(1))
    x0 = problem.map(x1)
    return [((sample(u, x1, steps) - x0).norm() / (x1 - x0).norm()).item() for steps in STEPS]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flowmapsr.trainer.tools.plane", description=__doc__)
    parser.add_argument("--steps", type=int, default=4000, help="training steps of each network")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=OBJECTIVES)
    arguments = parser.parse_args()
    print("| problem | objective | 1 step | 2 steps | 4 steps | 8 steps |\n|---|---|---|---|---|---|")
    for name, problem in PROBLEMS.items():
        for objective in arguments.objectives:
            row = errors(problem, train(problem, objective, arguments.steps))
            print("|", " | ".join([name, objective, *(f"{error:.3f}" for error in row)]), "|", flush=True)


if __name__ == "__main__":
    main()
