"""``flowmapsr evaluate``: models, their settings and other upscalers compared by what they make of the same images."""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..atomic import replacing, write_text
from ..errors import check
from ..evaluation.cases import Case, degraded_cases, group_cases, images_in, lone_cases, paired_cases
from ..evaluation.cells import Cells
from ..evaluation.columns import Lists, check_apart, plan_columns
from ..evaluation.makers import Baseline, Loading, Maker, ModelMaker, Resampling
from ..evaluation.metrics import METRICS, default_metrics, load_metrics
from ..evaluation.plot import draw_plot, find_axes
from ..evaluation.report import Report, results_csv, results_json, table
from ..evaluation.run import Keep, measure_all
from ..evaluation.sets import measure_sets
from ..evaluation.sheet import contact_sheet, shown_cases
from ..files.checkpoint import load_shapes
from ..files.lora import check_lora_scale, lora_names
from ..images.picture_files import check_writable
from ..method.looks import DEFAULT_LORA_SCALE
from ..upscaling.host import TorchHost, find_device, find_dtype
from ..upscaling.pipeline import check_scale, check_seed
from .folder import in_one_line


def run(options: Namespace) -> int:
    """Measure, and write tables, a sheet and a plot; whatever is wrong with the options is said before any of it."""
    for factor in options.factors:
        check_scale(factor)
    check_seed(options.seed)
    check_writable(options.output / "sheet.png")
    cases, damaged = _cases(options)
    device = find_device(options.device)
    makers = _makers(options, device)
    metrics = [METRICS[name] for name in dict.fromkeys(options.metrics or default_metrics())]
    if options.no_reference:
        metrics = [metric for metric in metrics if metric.reference != "hr"]
        check(bool(metrics), "without HR images none of these metrics can be measured; choose others")
    loaded = load_metrics([metric.name for metric in metrics], device, options.download)

    keep, cells = Keep(shown_cases(cases), whole=bool(loaded.sets)), Cells(options.output / "cells")
    results = measure_all(cases, makers, loaded.measures, cells, keep, partial(_watch, options.quiet))
    failures = {case: in_one_line(error, case.file, "a smaller --tile") for case, error in results.failures.items()}
    for failure in dict.fromkeys([*damaged.values(), *failures.values()]):
        print(f"flowmapsr: error: {failure}", file=sys.stderr)
    whole = [case for case in cases if case not in failures]
    check(bool(whole), "no image could be measured")
    left_out = [*damaged, *(f"{case.image} ({case.preset}, x{case.factor:g})" for case in failures)]
    sets = measure_sets(group_cases(whole), results.methods, loaded.sets, cells)
    report = Report(whole, metrics, loaded.lacking, results, _settings(options), left_out, sets)
    _write(report, cells, keep.shown, options)
    return 2 if left_out else 0


def _cases(options: Namespace) -> tuple[list[Case], dict[str, str]]:
    """What is measured, and what is wrong with images that are left out already."""
    presets, factors = list(dict.fromkeys(options.presets)), list(dict.fromkeys(options.factors))
    check(not (options.lr and options.no_reference), "--lr has HR images, --no-reference none; leave one of them out")
    files = images_in(options.folder, options.output)
    if options.lr is not None:
        return paired_cases(files, images_in(options.lr, options.output))
    if options.no_reference:
        return lone_cases(files, factors), {}
    return degraded_cases(files, presets, factors, options.seed), {}


def _makers(options: Namespace, device: torch.device) -> list[Callable[[], Maker]]:
    """What loads the makers. Of models only headers are read here; other upscalers are small, and are loaded."""
    loras = tuple(options.lora)
    check(bool(loras) or not options.lora_scales, "--lora-scales without --lora has nothing to scale")
    scales = options.lora_scales or ([DEFAULT_LORA_SCALE] if loras else [])
    for scale in scales:
        check_lora_scale(scale)
    groups = plan_columns(
        Lists(options.models, options.looks, options.steps, options.guidance, options.realism, scales)
    )
    if options.vae is None:  # with one, what is wrong is found when it is loaded
        for name in options.models:
            model = load_shapes(name)
            for path in loras:
                lora_names(path, model)
    check(options.tile is None or options.tile >= 0, f"the tile is {options.tile}; use a side in pixels, or 0 for none")
    loading = Loading(device, find_dtype(options.dtype, TorchHost(device)), options.vae, loras, options.tile)
    baselines = [Baseline(path, device) for path in options.baseline]
    names = [column.name for group in groups for column in group]
    check_apart([*Resampling().methods, *(name for baseline in baselines for name in baseline.methods), *names])
    return [
        Resampling,
        *((lambda maker=maker: maker) for maker in baselines),
        *(partial(ModelMaker, group, loading) for group in groups),
    ]


def _watch(quiet: bool, maker: Maker, cases: Sequence[Case]) -> Iterator[Case]:
    with tqdm(cases, desc=maker.title, unit="image", disable=quiet) as bar, logging_redirect_tqdm():
        yield from bar


def _settings(options: Namespace) -> dict[str, Any]:
    """What holds for all methods, without places on this machine."""
    return {"seed": options.seed, "dtype": options.dtype, "tile": options.tile}


def _write(report: Report, cells: Cells, shown: Sequence[Case], options: Namespace) -> None:
    text = table(report)
    write_text(options.output / "results.json", results_json(report))
    write_text(options.output / "results.csv", results_csv(report))
    write_text(options.output / "table.md", text)
    print(text, end="")
    with replacing(options.output / "sheet.png") as file:
        contact_sheet(report, cells, shown).save(file, "PNG")
    axes = find_axes(report)
    if axes is None:
        print("flowmapsr: no plot, as no measures of fidelity and of realism are there together", file=sys.stderr)
        return
    try:
        draw_plot(report, axes, options.output / "plot.png")
    except ImportError as error:
        print(f"flowmapsr: no plot, which needs {error.name}: pip install 'flowmapsr[evaluate]'", file=sys.stderr)
