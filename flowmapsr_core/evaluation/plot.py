"""Fidelity against realism: a point for each method, and a line through the points of a dial."""

from pathlib import Path
from typing import Any

from ..atomic import replacing
from .metrics import METRICS
from .report import Report

# what is up and what is right, the first two that there are figures of
AXES = (("psnr-y", "features-lite2"), ("psnr-y", "features"), ("psnr-y", "lpips"), ("lr-consistency", "niqe"))
SIDE = 5.0  # of a plot, in inches
LEGEND = 2.5  # its width
MARKERS = "osD^v<>Pp*h"  # as many as no multiple of the ten colours: no two methods look the same


def find_axes(report: Report) -> tuple[str, str] | None:
    """Metrics for fidelity and for realism; None if no two of them were measured."""
    measured = {metric.name for metric in report.metrics} - report.lacking.keys()
    return next((axes for axes in AXES if measured.issuperset(axes)), None)


def draw_plot(report: Report, axes: tuple[str, str], path: Path) -> None:
    """Write a plot for each preset and factor, side by side, as a PNG; ``ImportError`` without matplotlib."""
    from matplotlib.figure import Figure

    groups = report.groups()
    figure = Figure(figsize=(SIDE * len(groups) + LEGEND, SIDE), layout="constrained")
    for place, (preset, factor) in enumerate(groups, 1):
        plot = figure.add_subplot(1, len(groups), place)
        points = {}
        for method in report.methods:
            up, right = (report.mean((preset, factor), method, name) for name in axes)
            if not isinstance(up, str) and not isinstance(right, str):
                points[method] = (right, up)
        _lines(plot, report, points)
        for index, method in enumerate(report.methods):
            if method in points:
                plot.plot(*points[method], MARKERS[index % len(MARKERS)], color=f"C{index % 10}", label=method)
        plot.set_title(f"{preset}, x{factor:g}")
        plot.set_xlabel(f"{METRICS[axes[1]].title} ({METRICS[axes[1]].better} is better)")
        plot.set_ylabel(f"{METRICS[axes[0]].title} ({METRICS[axes[0]].better} is better)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=150, metadata={"Software": None})


def _lines(plot: Any, report: Report, points: dict[str, tuple[float, float]]) -> None:
    dials: dict[str, list[tuple[float, str]]] = {}
    for method, settings in report.results.methods.items():
        for dial in settings.get("dials", ()) if method in points else ():
            dials.setdefault(dial, []).append((settings["realism"], method))
    for dial in dials.values():
        plot.plot(*zip(*(points[method] for _, method in sorted(dial)), strict=True), "-", color="0.7", zorder=0)
