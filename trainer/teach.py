"""``python -m flowmapsr.trainer.teach RECIPE.toml [--set key=value]``: a teacher's pictures, before they are needed."""

import signal
import sys
from pathlib import Path
from typing import cast

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..flowmapsr_core.errors import check
from .data.crops import PhotoCrops, StepSampler, collate, training_photos
from .data.pairs import make_pairs
from .data.teacher import Upscaler
from .recipe.read import read_recipe
from .recipe.recipe import Recipe
from .run.batch import pair_generators
from .run.command import recipe_parser, run_command
from .run.loop import next_crops
from .run.start import shapes_of_model
from .run.stopping import Stopped, outlive_signals
from .run.teaching import Cache, taught_rows


def main(arguments: list[str] | None = None) -> int:
    """Fill a cache by the command line; returns the exit status as :func:`.run.command.run_command`."""
    parser = recipe_parser(
        "flowmapsr.trainer.teach",
        "Fill the folder teacher.cache with the teacher's pictures that a recipe trains on. Running the same command "
        "again goes on. For several GPUs or hosts: accelerate launch -m flowmapsr.trainer.teach RECIPE.toml",
    )
    options = parser.parse_args(arguments)
    return run_command(lambda: teach(read_recipe(options.recipe, options.set)), "make the side in data.budgets smaller")


def teach(recipe: Recipe) -> Path:
    """Fill the recipe's cache with what is not there yet; returns its folder. Processes of a launcher share the work.

    Raises :class:`UserError` for an unusable teacher or data, a full disk or a cache of something else, and
    :class:`Stopped` where the user stops it: what was made stays.
    """
    check(bool(recipe.teacher.cache), "teacher.cache must name the folder to fill: --set teacher.cache=FOLDER")
    processes = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    device = cast(torch.device, processes.device)
    model = shapes_of_model(recipe)
    photos, _ = training_photos(recipe.data, processes)
    multiple = model.codec.factor * model.network.stride
    crops = PhotoCrops(recipe.data, photos, multiple, recipe.seed, processes.num_processes)
    upscaler = Upscaler(recipe.teacher, device)
    cache = Cache(recipe, crops)
    with processes.main_process_first():
        if processes.is_main_process:
            cache.claim()
    own = cache.steps[processes.process_index :: processes.num_processes]
    left = cache.missing(own)
    loader = DataLoader(
        crops,
        batch_sampler=StepSampler(crops, left, 1, 0, 1),
        num_workers=recipe.data.workers,
        collate_fn=collate,
        worker_init_fn=outlive_signals,
    )
    behind, quiet = len(own) - len(left), not processes.is_main_process
    try:
        drawn = iter(loader)
        for step in tqdm(left, initial=behind, total=len(own), unit="step", disable=quiet):
            hr = next_crops(drawn)[0].to(device)
            cache.write(step, pictures_of(recipe, step, hr, upscaler))
    except KeyboardInterrupt as error:
        raise Stopped("stopped; the same command goes on with the pictures that are left", signal.SIGINT) from error
    processes.destroy_process_group()
    return cache.folder


def pictures_of(recipe: Recipe, step: int, hr: Tensor, upscaler: Upscaler) -> Tensor:
    """The teacher's pictures (n, 3, H, W) for a step's HR crops (B, 3, H, W), those of its :func:`taught_rows`."""
    generators = pair_generators(recipe, step, range(recipe.degrade.groups))
    nobody = torch.zeros(len(hr), dtype=torch.bool, device=hr.device)
    *_, small = make_pairs(hr, recipe.degrade, nobody, generators)
    return upscaler.of_groups(small, taught_rows(recipe, len(hr)), (hr.shape[-2], hr.shape[-1]))


if __name__ == "__main__":
    sys.exit(main())
