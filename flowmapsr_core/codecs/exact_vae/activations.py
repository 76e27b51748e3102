"""Activations in bands of rows, and the statistics of all bands together."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Span = tuple[int, int]


class Moments:
    """Mean and variance of every channel of an activation, (B, C) in float32 or wider, from bands that come one by one.

    Bands are merged by the law of total variance: the mean of the variances and the variance of the means.
    """

    def __init__(self) -> None:
        self.pixels = 0
        self.mean = self.variance = torch.zeros(())

    def add(self, band: Tensor) -> None:
        """Count in a band (B, C, rows, W)."""
        wide = band.to(torch.promote_types(band.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, dim=(2, 3), correction=0)
        pixels = band.shape[2] * band.shape[3]
        self.pixels += pixels
        share = pixels / self.pixels
        apart = mean - self.mean
        self.mean = self.mean + share * apart
        self.variance = (1 - share) * self.variance + share * variance + share * (1 - share) * apart**2

    def of_groups(self, groups: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of groups of channels, (B, groups, 1) each: the same law, over channels."""
        means = self.mean.unflatten(1, (groups, -1))
        variances = self.variance.unflatten(1, (groups, -1))
        spread, mean = torch.var_mean(means, dim=2, correction=0, keepdim=True)
        return mean, variances.mean(2, keepdim=True) + spread


@dataclass(frozen=True)
class Banding:
    """How activations are cut.

    Attributes:
        rows: height of a band, on every layer's own grid.
        device: where bands are computed.
        store: where bands lie in between.
        tick: called after every band.
    """

    rows: int
    device: torch.device
    store: torch.device
    tick: Callable[[], None]

    def spans(self, height: int) -> list[Span]:
        """First and last row (exclusive) of every band."""
        return [(top, min(top + self.rows, height)) for top in range(0, height, self.rows)]


class Banded:
    """An activation (B, C, height, W) in bands of rows, from the top."""

    def __init__(self, banding: Banding) -> None:
        self.banding = banding
        self.bands: deque[Tensor] = deque()
        self.height = 0
        self.moments = Moments()

    def put(self, band: Tensor) -> None:
        """Add the next band."""
        self.height += band.shape[2]
        self.bands.append(band.to(self.banding.store))

    def read(self) -> Iterator[Tensor]:
        """The bands, on the computing device."""
        return (band.to(self.banding.device) for band in self.bands)

    def take(self) -> Iterator[Tensor]:
        """The bands, for the last time: what was read is held no longer."""
        while self.bands:
            yield self.bands.popleft().to(self.banding.device)

    def then(self, bands: Iterable[Tensor]) -> "Banded":
        """The activation of the next layer, computed now."""
        result = Banded(self.banding)
        for band in bands:
            result.moments.add(band)  # while it is on the device
            result.put(band)
            self.banding.tick()
        return result


def windows(bands: Iterable[Tensor], spans: Iterable[Span], height: int) -> Iterator[Tensor]:
    """Rows ``[start, stop)`` of an activation of which the bands pass by once, for spans whose starts do not fall.

    A span may begin above the first row and end below the last one: those rows are left out.
    """
    source = iter(bands)
    held, top = next(source), 0
    for start, stop in spans:
        start, stop = max(start, 0), min(stop, height)
        held, top = held[:, :, start - top :], start
        while top + held.shape[2] < stop:
            held = torch.cat([held, next(source)], dim=2)
        yield held[:, :, : stop - top]
