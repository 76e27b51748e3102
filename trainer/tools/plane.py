"""Every objective on problems in the plane whose flow map is known.

``python -m flowmapsr.trainer.tools.plane`` trains one small network per problem and objective and prints the error
of its map after 1, 2, 4 and 8 steps: the root mean square distance to the true map, relative to the true displacement.
The last figure is the spread of what one step gives, relative to that of the true map's: 1 where the law is right, less
where the objective prefers means. Distillation learns the one step only, and so does consistency training, whose number
is that of its grid's steps.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor, nn

from ...flowmapsr_core.method.flow import Velocity, conditional_velocity, interpolant, per_sample, sample
from ..data.time_pairs import TimePairs
from ..objectives import JUMPS, anchored, consistency_target, shortcut_target, trajectory_target

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


def fit(network: Network, steps: int, error: Callable[[Generator], Tensor]) -> None:
    """Train a network on the mean square of an error (n, 2), drawn by a generator; the same seed for all of them."""
    generator = Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        error(generator).square().mean().backward()
        optimizer.step()
        schedule.step()


def train(problem: Problem, objective: str, steps: int) -> Network:
    """A network trained on 75 % flow matching and 25 % jumps of an objective."""
    torch.manual_seed(0)
    network, times = Network(), TimePairs()
    jumps = 0 if objective == "flow-matching" else round(times.jumps * BATCH)
    shortcut = partial(shortcut_target, finest=times.finest)
    trajectory = partial(trajectory_target, step=torch.tensor(times.solver_step))
    target_of = {**JUMPS, "shortcut": shortcut, "trajectory": trajectory}

    def error(generator: Generator) -> Tensor:
        x0, x1 = problem.pairs(BATCH, generator)
        pairs = times.shortcut if objective == "shortcut" else times.intervals
        t, s = map(torch.cat, zip(pairs(jumps, generator), times.flow_matching(BATCH - jumps, generator), strict=True))
        if objective == "straight":  # its pairs are a teacher's: here x0 is where the true map takes x1
            x0[:jumps] = problem.map(x1[:jumps], steps=8)
        x_t, v = interpolant(x0, x1, t), conditional_velocity(x0, x1)
        target = v.clone()
        if jumps:
            # A network this small is stable as its own teacher; no average of its weights is needed.
            with torch.no_grad():
                target[:jumps] = target_of[objective](network, x_t[:jumps], v[:jumps], t[:jumps], s[:jumps])
        return network(x_t, t, s) - target

    fit(network, steps, error)
    return network


def train_flow(problem: Problem, steps: int) -> Velocity:
    """Flow matching alone, whose jumps are Euler steps."""
    network = train(problem, "flow-matching", steps)
    return lambda x, t, s: network(x, t, t)


def distil(problem: Problem, steps: int) -> Network:
    """A student of one step: flow matching for half of the steps, then jumps from t = 1 along what that has learned."""
    teacher, times = train(problem, "flow-matching", steps // 2), TimePairs()
    student = copy.deepcopy(teacher)
    u = anchored(student, teacher)

    def error(generator: Generator) -> Tensor:
        x1 = problem.pairs(BATCH, generator)[1]
        t, s = times.from_start(BATCH, generator)
        with torch.no_grad():
            target = trajectory_target(u, x1, x1, t, s, torch.tensor(times.solver_step))
        return student(x1, t, s) - target

    fit(student, steps - steps // 2, error)
    return student


def train_consistency(problem: Problem, grid: int, steps: int) -> Network:
    """A network trained on consistency alone: times n / grid to 0, the error that of the point where the jump ends."""
    torch.manual_seed(0)
    network, times = Network(), TimePairs()

    def error(generator: Generator) -> Tensor:
        x0, x1 = problem.pairs(BATCH, generator)
        t, s = times.to_zero(BATCH, generator, grid)
        x_t, v = interpolant(x0, x1, t), conditional_velocity(x0, x1)
        with torch.no_grad():
            target = consistency_target(network, x_t, v, t, s, torch.tensor(1 / grid))
        return per_sample(t, x_t) * (network(x_t, t, s) - target)

    fit(network, steps, error)
    return network


MIXED = {name: partial(train, objective=name) for name in JUMPS if name != "consistency"}
ONE_STEP = {
    "distillation": distil,
    **{f"consistency-{grid}": partial(train_consistency, grid=grid) for grid in (4, 16, 64)},
}
ROWS: dict[str, Callable[..., Velocity]] = {"flow-matching": train_flow, **MIXED, **ONE_STEP}


@torch.no_grad()
def errors(problem: Problem, u: Velocity) -> list[float]:
    """Relative error of the map that u makes in 1, 2, 4 and 8 steps."""
    _, x1 = problem.pairs(POINTS, Generator().manual_seed(1))
    x0 = problem.map(x1)
    return [((sample(u, x1, steps) - x0).norm() / (x1 - x0).norm()).item() for steps in STEPS]


@torch.no_grad()
def spread(problem: Problem, u: Velocity) -> Tensor:
    """Standard deviations (2,) of what one step of u gives, relative to those of the true map."""
    _, x1 = problem.pairs(POINTS, Generator().manual_seed(1))
    return sample(u, x1, 1).std(dim=0) / problem.map(x1).std(dim=0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flowmapsr.trainer.tools.plane", description=__doc__)
    parser.add_argument("--steps", type=int, default=4000, help="training steps of each network")
    parser.add_argument("--objectives", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME",
                        help=f"of {', '.join(ROWS)} (all)")  # fmt: skip
    arguments = parser.parse_args()
    print("| problem | objective | 1 step | 2 steps | 4 steps | 8 steps | spread |\n|---|---|---|---|---|---|---|")
    for name, problem in PROBLEMS.items():
        for objective in arguments.objectives:
            u = ROWS[objective](problem, steps=arguments.steps)
            figures = errors(problem, u)[: 1 if objective in ONE_STEP else None]
            cells = [f"{figure:.3f}" for figure in figures] + [""] * (len(STEPS) - len(figures))
            print("|", " | ".join([name, objective, *cells, f"{spread(problem, u).mean():.3f}"]), "|", flush=True)


if __name__ == "__main__":
    main()
