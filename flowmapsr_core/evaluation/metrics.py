"""What can be measured: a row of data for each metric, and which of them can run here."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, one_line
from ..images.metrics import luma
from . import libraries, measures, sets
from .features import LITE0, LITE2
from .measures import Measure
from .sets import SetMeasure

INFINITE = float("inf")


@dataclass(frozen=True)
class Metric:
    """A row.

    Attributes:
        name: what the command line and the files call it.
        title: what a table calls it, with its unit.
        better: "higher", "lower", or "1" where that is what the original has.
        low, high: between these it lies; better than the best, or worse than the worst, nothing can be.
        digits: behind the point, in a table.
        reference: "hr", "lr", or "none" if the picture alone is looked at.
        load: gives the measure on a device.
        extra: of this project, which brings what it needs; empty if that is nothing.
        packages: that it imports.
        weights: file that torchvision downloads for it, or "pyiqa" for what that downloads; empty if it needs none.
        of_set: whether it looks at all pictures of a method together: it loads a :data:`.sets.SetMeasure` then.
    """

    name: str
    title: str
    better: str
    low: float
    high: float
    digits: int
    reference: str
    load: Callable[[torch.device], Any]
    extra: str = ""
    packages: tuple[str, ...] = ()
    weights: str = ""
    of_set: bool = False

    def row(self) -> dict[str, Any]:
        """As JSON data."""
        row = {key: value for key, value in asdict(self).items() if key not in ("load", "packages", "digits")}
        return row | {"low": _limit(self.low), "high": _limit(self.high)}


def _own(measure: Measure) -> Callable[[torch.device], Measure]:
    """A measure that nothing has to be loaded for."""
    return lambda device: measure


_TORCHMETRICS = ("evaluate", ("torchmetrics",))
_NETWORKS = ("evaluate", ("torchmetrics", "torchvision"))
_ALEXNET, _VGG = "alexnet-owt-7be5be79.pth", "vgg16-397923af.pth"
_PYIQA = ("iqa", ("pyiqa",), "pyiqa")

METRICS = {metric.name: metric for metric in (
    Metric("psnr-y", "PSNR-Y, dB", "higher", 0, INFINITE, 2, "hr", _own(measures.luma_psnr)),
    Metric("psnr-rgb", "PSNR, dB", "higher", 0, INFINITE, 2, "hr", _own(measures.rgb_psnr)),
    Metric("ssim-y", "SSIM-Y", "higher", -1, 1, 4, "hr", libraries.ssim(luma), *_TORCHMETRICS),
    Metric("ssim-rgb", "SSIM", "higher", -1, 1, 4, "hr", libraries.ssim(libraries.rgb), *_TORCHMETRICS),
    Metric("ms-ssim-y", "MS-SSIM-Y", "higher", 0, 1, 4, "hr", libraries.ms_ssim(luma), *_TORCHMETRICS),
    Metric("ms-ssim-rgb", "MS-SSIM", "higher", 0, 1, 4, "hr", libraries.ms_ssim(libraries.rgb), *_TORCHMETRICS),
    Metric("high-frequency", "high frequencies", "1", 0, INFINITE, 3, "hr", _own(measures.high_frequency_ratio)),
    Metric("features", "features, Lite0", "lower", 0, 2, 4, "hr", libraries.feature_distance(LITE0), "features",
           (LITE0.package[0],)),
    Metric("features-lite2", "features, Lite2", "lower", 0, 2, 4, "hr", libraries.feature_distance(LITE2), "evaluate",
           (LITE2.package[0],)),
    Metric("lpips", "LPIPS", "lower", 0, INFINITE, 4, "hr", libraries.lpips, *_NETWORKS, _ALEXNET),
    Metric("dists", "DISTS", "lower", 0, 1, 4, "hr", libraries.dists, *_NETWORKS, _VGG),
    Metric("color", "CIEDE2000, low-pass", "lower", 0, INFINITE, 3, "hr", _own(measures.color_error)),
    Metric("lr-consistency", "LR consistency, dB", "higher", 0, INFINITE, 2, "lr", _own(measures.lr_consistency)),
    Metric("pixel-grid", "pixel grid", "lower", 0, INFINITE, 2, "none", _own(measures.pixel_grid)),
    Metric("seams", "seams", "1", 0, INFINITE, 3, "lr", _own(measures.seams)),
    Metric("niqe", "NIQE", "lower", 0, INFINITE, 3, "none", libraries.quality("niqe"), *_PYIQA),
    Metric("musiq", "MUSIQ", "higher", 0, 100, 2, "none", libraries.quality("musiq"), *_PYIQA),
    Metric("maniqa", "MANIQA", "higher", 0, 1, 4, "none", libraries.quality("maniqa"), *_PYIQA),
    Metric("clipiqa", "CLIP-IQA", "higher", 0, 1, 4, "none", libraries.quality("clipiqa"), *_PYIQA),
    Metric("fid", "FID", "lower", 0, INFINITE, 2, "hr", sets.fid, *_PYIQA, of_set=True),
)}  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """Metrics that can run, and those that cannot.

    Attributes:
        measures: of single pictures, by the metrics' names.
        sets: of all pictures together.
        lacking: what the others need.
    """

    measures: dict[str, Measure]
    sets: dict[str, SetMeasure]
    lacking: dict[str, str]


def load_metrics(names: Sequence[str], device: torch.device, download: bool) -> Loaded:
    """Load what can run here; what cannot is no error.

    Args:
        names: of :data:`METRICS`.
        device: where networks are evaluated.
        download: whether weights that are not there may be downloaded.
    """
    loaded = Loaded({}, {}, {})
    for name in names:
        metric = METRICS[name]
        try:
            _check_packages(metric)
            _check_weights(metric, download)
            (loaded.sets if metric.of_set else loaded.measures)[name] = metric.load(device)
        except (UserError, OSError) as error:
            loaded.lacking[name] = one_line(error)
    return loaded


def default_metrics() -> list[str]:
    """Names of all but those that need pyiqa, which are slow."""
    return [name for name, metric in METRICS.items() if metric.extra != "iqa"]


def _limit(value: float) -> float | None:
    """An end of a range as JSON data, None where there is none."""
    return None if abs(value) == INFINITE else value


def _check_packages(metric: Metric) -> None:
    for package in metric.packages:
        try:
            import_module(package)
        except ImportError as error:
            raise UserError(f"needs {error.name or package}: pip install 'flowmapsr[{metric.extra}]'") from error


def _check_weights(metric: Metric, download: bool) -> None:
    if not metric.weights or download:
        return
    if metric.weights == "pyiqa":
        raise UserError("needs weights: --download lets pyiqa fetch them, where they are not there yet")
    file = Path(torch.hub.get_dir()) / "checkpoints" / metric.weights
    if not file.is_file():
        raise UserError(f"needs weights: --download fetches {metric.weights}")
