"""What has been measured, as JSON, CSV and a table. Nothing of when and how fast is in it: same results, same bytes."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .cases import Case, Group, group_cases
from .cells import Value, to_json
from .metrics import METRICS, Metric
from .run import Results
from .sets import SetFigures


@dataclass(frozen=True)
class Report:
    """Results with all that has to be said of them.

    Attributes:
        cases: those that were measured by all methods.
        metrics: rows, in the order of the table.
        lacking: what a metric that cannot run needs, by its name.
        results: from :func:`.run.measure_all`.
        settings: what else it was made with, as JSON data.
        left_out: images that something was wrong with.
        sets: from :func:`.sets.measure_sets`.
    """

    cases: Sequence[Case]
    metrics: Sequence[Metric]
    lacking: dict[str, str]
    results: Results
    settings: dict[str, Any]
    left_out: Sequence[str] = ()
    sets: SetFigures = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """Names, in the order of the table."""
        return list(self.results.methods)

    def groups(self) -> dict[Group, list[Case]]:
        """Cases by preset and factor."""
        return group_cases(self.cases)

    def value(self, case: Case, method: str, metric: str) -> Value:
        """A figure, or why there is none."""
        return self.lacking.get(metric) or self.results.cells[case, method].get(metric, "of all images only")

    def mean(self, group: Group, method: str, metric: str) -> Value:
        """The mean over those images that have a figure, or why none has; or the figure of all together."""
        if METRICS[metric].of_set and metric not in self.lacking:
            return self.sets[group][method][metric]
        values = [self.value(case, method, metric) for case in self.groups()[group]]
        numbers = [value for value in values if not isinstance(value, str)]
        return math.fsum(numbers) / len(numbers) if numbers else values[0]


def results_json(report: Report) -> str:
    """Everything: ``cells`` with a figure for each image, ``means``, and what metrics and methods are."""
    return to_json({
        "cells": [
            {**case.name, "method": method,
             "values": {m.name: report.value(case, method, m.name) for m in report.metrics}}
            for case in report.cases for method in report.methods
        ],
        "left_out": sorted(report.left_out),
        "means": [
            {"preset": preset, "factor": factor, "method": method, "images": len(cases),
             "values": {m.name: report.mean((preset, factor), method, m.name) for m in report.metrics}}
            for (preset, factor), cases in report.groups().items() for method in report.methods
        ],
        "methods": [{"name": name, **settings} for name, settings in report.results.methods.items()],
        "metrics": [{**m.row(), "lacking": report.lacking.get(m.name)} for m in report.metrics],
        "settings": report.settings,
    })  # fmt: skip


def results_csv(report: Report) -> str:
    """A line for each image, preset, factor and method."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "preset", "factor", "method", *(metric.name for metric in report.metrics)])
    for case in report.cases:
        for method in report.methods:
            values = (report.value(case, method, metric.name) for metric in report.metrics)
            writer.writerow([case.image, case.preset, f"{case.factor:g}", method, *values])
    return text.getvalue()


def table(report: Report) -> str:
    """Means in Markdown, a table for each preset and factor; below them, how to read them."""
    lines: list[str] = []
    for (preset, factor), cases in report.groups().items():
        lines += [f"**{preset}, x{factor:g}**, {len(cases)} image{'s' * (len(cases) > 1)}", ""]
        lines.append(_row(["method", *(metric.title for metric in report.metrics)]))
        lines.append(f"|---|{'---:|' * len(report.metrics)}")
        for method in report.methods:
            means = ((report.mean((preset, factor), method, metric.name), metric.digits) for metric in report.metrics)
            lines.append(_row([method, *(_cell(mean, digits) for mean, digits in means)]))
        lines.append("")
    return "\n".join([*lines, *_legend(report)]) + "\n"


def _legend(report: Report) -> Iterator[str]:
    for better, words in (("higher", "Higher is better"), ("lower", "Lower is better"), ("1", "Best is 1")):
        titles = [metric.title for metric in report.metrics if metric.better == better]
        if titles:
            yield f"- {words}: {'; '.join(titles)}."
    for metric in report.metrics:
        if metric.name in report.lacking:
            yield f"- {metric.title} {report.lacking[metric.name]}"
    if report.left_out:
        yield f"- Left out: {', '.join(sorted(report.left_out))}."


def _cell(value: Value, digits: int) -> str:
    """A figure; of why there is none, what comes before the colon."""
    return value.partition(":")[0] if isinstance(value, str) else f"{value:.{digits}f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
