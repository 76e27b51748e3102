"""Which times (t, s) a training sample gets: dyadic levels, as in shortcut models."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class TimePairs:
    """Distribution of the time pairs.

    Attributes:
        levels: K; jumps have lengths 2^0 ... 2^-(K-1), and the finest grid is 2^-K.
        coarse: how much likelier each jump length is than the one half as long; 1 is uniform over the levels.
        start: share of flow-matching samples at t = 1, where sampling starts and the posterior mean is read.
        jumps: share of samples that are jumps (self-distillation), once a stage has them.
        step: of the solver of a trajectory (objective "trajectory"), a power of two; OFTSR's is 0.05.
        grids: intervals T of consistency training's grid n / T, one after another over equal parts of its stage.
    """

    levels: int = 7
    coarse: float = 1.0
    start: float = 0.0
    jumps: float = 0.25
    step: float = 1 / 16
    grids: tuple[int, ...] = (4, 3)

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= 7:
            raise ValueError("levels must be 1 to 7")
        if self.coarse < 1:
            raise ValueError("coarse must be at least 1")
        if not (0 <= self.start <= 1 and 0 <= self.jumps <= 1):
            raise ValueError("start and jumps are shares between 0 and 1")
        if self.step not in [2.0**-k for k in range(8)]:
            raise ValueError("step must be 1, 1/2, 1/4 ... or 1/128")
        if not self.grids or min(self.grids) < 1:
            raise ValueError("grids must be whole numbers of at least 1, [first, ..., last]")

    @property
    def finest(self) -> float:
        """Step of the finest grid."""
        return 2.0**-self.levels

    @property
    def solver_step(self) -> float:
        """``step``, or twice the finest grid's where that is longer: its midpoints are on the grid then."""
        return max(self.step, 2 * self.finest)

    def jump_rows(self, n: int) -> Tensor:
        """Which of n samples are jumps, (n,) bool: spread evenly over processes and degradations."""
        count = ((torch.arange(n + 1) * self.jumps) + 1e-6).floor()
        return count.diff() > 0

    def flow_matching(self, n: int, generator: Generator, zero: bool = False) -> tuple[Tensor, Tensor]:
        """t on the finest grid, s = t; both (n,). ``zero``: t = 0 too, where no jump begins but LSD looks at u."""
        t = torch.randint(0 if zero else 1, 2**self.levels + 1, (n,), generator=generator) * self.finest
        t = torch.where(torch.rand(n, generator=generator) < self.start, torch.ones(n), t)
        return t, t

    def shortcut(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Level k in {0 .. K-1}, t in {1 .. 2^k} / 2^k, s = t - 2^-k; both (n,)."""
        t, step = self._grid(n, generator)
        return t, t - step

    def intervals(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """As :meth:`shortcut`, but ``s = t - m 2^-k`` with m uniform in {1 .. t 2^k}: any interval of the grid."""
        t, step = self._grid(n, generator)
        lengths = t / step
        return t, t - ((torch.rand(n, generator=generator) * lengths).floor() + 1).minimum(lengths) * step

    def from_start(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """t = 1 and s in {0 .. 2^(K-1) - 1} / 2^(K-1), both (n,): the jumps of a one-step student."""
        ends = 2 ** (self.levels - 1)
        return torch.ones(n), torch.randint(ends, (n,), generator=generator) / ends

    def to_zero(self, n: int, generator: Generator, intervals: int) -> tuple[Tensor, Tensor]:
        """t in {1 .. T} / T, s = 0, both (n,): the jumps of consistency training on a grid of T intervals."""
        return torch.randint(1, intervals + 1, (n,), generator=generator) / intervals, torch.zeros(n)

    def intervals_at(self, share: float) -> int:
        """T of consistency training after a share of its stage, from 0 to 1."""
        return self.grids[min(int(share * len(self.grids)), len(self.grids) - 1)]

    def _grid(self, n: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """(t, step), both (n,): a level, and a time on its grid."""
        weights = self.coarse ** -torch.arange(self.levels, dtype=torch.float32)
        shares = (weights / weights.sum()).cumsum(0)[:-1]
        level = torch.bucketize(torch.rand(n, generator=generator), shares)
        step = 2.0**-level
        t = ((torch.rand(n, generator=generator) / step).floor() + 1) * step
        return t, step
