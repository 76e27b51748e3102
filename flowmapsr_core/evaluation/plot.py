"""Fidelity against realism: a point for each method, and a line through the points of a dial."""

from pathlib import Path
from typing import Any

from ..atomic import replacing
from .metrics import METRICS
from .report import Report

# what is up and what is right, the first two that there are figures of
AXES = (("psnr-y", "features-lite2"), ("psnr-y", "features"), ("psnr-y", "lpips"), ("lr-consistency", "niqe"))
SIDE = 5.0  # of a plot, in inches


def find_axes(report: Report) -> tuple[str, str] | None:
    """Metrics for fidelity and for realism; None if no two of them were measured."""
    measured = {metric.name for metric in report.metrics} - report.lacking.keys()
    return next((axes for axes in AXES if measured.issuperset(axes)), None)


def draw_plot(report: Report, axes: tuple[str, str], path: Path) -> None:
    """Write a plot for each preset and factor, side by side, as a PNG; ``ImportError`` without matplotlib."""
    from matplotlib.figure import Figure

    groups = report.groups()
    figure = Figure(figsize=(SIDE * len(groups), SIDE), layout="constrained")
    for place, ((preset, factor), cases) in enumerate(groups.items(), 1):
        plot = figure.add_subplot(1, len(groups), place)
        points = {}
        for method in report.methods:
            up, right = (report.mean(cases, method, name) for name in axes)
            if not isinstance(up, str) and not isinstance(right, str):
                points[method] = (right, up)
        _lines(plot, report, points)
        for method, point in points.items():
            plot.plot(*point, "o", markersize=4)
            plot.annotate(method, point, xytext=(3, 3), textcoords="offset points", fontsize=7)
        plot.set_title(f"{preset}, x{factor:g}")
        plot.set_xlabel(f"{METRICS[axes[1]].title} ({METRICS[axes[1]].better} is better)")
        plot.set_ylabel(f"{METRICS[axes[0]].title} ({METRICS[axes[0]].better} is better)")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=150, metadata={"Software": None})


def _lines(plot: Any, report: Report, points: dict[str, tuple[float, float]]) -> None:
    dials: dict[str, list[tuple[float, str]]] = {}
    for method, settings in report.results.methods.items():
        if settings.get("dial") and method in points:
            dials.setdefault(settings["dial"], []).append((settings["realism"], method))
    for dial in dials.values():
        plot.plot(*zip(*(points[method] for _, method in sorted(dial)), strict=True), "-", color="0.7", zorder=0)
