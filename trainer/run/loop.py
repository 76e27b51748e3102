"""The training loop: stages one after another, each from the checkpoint of the one before."""

import dataclasses
import functools
import gc
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env, set_seed
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ...flowmapsr_core.errors import UserError
from ...flowmapsr_core.evaluation.features import find_classifier
from ...flowmapsr_core.model import Model
from ...flowmapsr_core.upscaling.host import TorchHost
from ..data.crops import PhotoCrops, StepSampler, collate, training_photos
from ..data.photos import Sizes
from ..learning.schedule import lr_factor
from ..losses.adversarial import SMALLEST
from ..recipe.recipe import Recipe
from .accelerator import start_accelerator, track_picture
from .batch import GUIDED, Batch, draw, generator_of, make_batch, pair_generators
from .consistency import ConsistencyLearner, TrajectoryLearner
from .distillation import DistillationLearner
from .export import export, result_file, stage_file, start_of
from .learner import AdversarialLearner, Learner
from .start import build_model, keep_start
from .state import append_log, claim_folder, drop_state, load_state, save_state, trim_log, written
from .stopping import Stopped, StopSignal, outlive_signals
from .teaching import Teaching
from .validation import load_crops, save_png, validate
from .watch import LossWatch

LEARNERS: dict[str, type[Learner]] = {
    "flow-matching": Learner,
    "self-distillation": Learner,
    "guided": Learner,
    "distillation": DistillationLearner,
    "adversarial": AdversarialLearner,
    "consistency": ConsistencyLearner,
    "trajectory-matching": TrajectoryLearner,
}
TRACKED = 10  # steps between the figures that trackers get


def train(recipe: Recipe) -> Path:
    """Run a recipe's stages, from the last checkpoint if there is one; returns the checkpoint (or LoRA) of the last.

    Raises :class:`UserError` for unusable data, a full disk or a loss that explodes; the last checkpoint stays.
    Raises :class:`Stopped` when a process gets SIGINT or SIGTERM, after the step, with a checkpoint of it.
    """
    processes = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    with processes.main_process_first():
        if processes.is_main_process:
            claim_folder(recipe)
    photos = functools.cache(partial(training_photos, recipe.data, processes))  # found once, when a stage needs them
    left = [index for index in range(len(recipe.stages)) if not stage_file(recipe, index).exists()]
    for index in left:
        stage = StageRun(recipe, index, photos)
        stage.run()
        accelerator = stage.accelerator
        del stage
        accelerator.free_memory()
        gc.collect()  # a prepared model refers to itself
    if processes.is_main_process:
        drop_state(Path(recipe.output.folder))
        if not left:
            print(f"every stage in {recipe.output.folder} is done; give another output.folder to train again")
    processes.destroy_process_group()
    return result_file(recipe, recipe.stages[-1])


class StageRun:
    """One stage: what it trains, where it stands (``done`` steps of it), and how it goes on.

    ``photos`` gives those to train on, and how many files were none.
    """

    def __init__(self, recipe: Recipe, index: int, photos: Callable[[], tuple[Sizes, int]]) -> None:
        self.recipe, self.index, self.stage = recipe, index, recipe.stages[index]
        self.folder = Path(recipe.output.folder)
        self.first = recipe.first_step(index)
        self.parts = recipe.optimizer.accumulate
        self.accelerator = start_accelerator(recipe)
        set_seed(recipe.seed + index)
        start = start_of(recipe, index)
        self.model, new = build_model(recipe, start)
        codec, network = self.model.codec, self.model.network
        sizes, unreadable = photos()
        beside = int(os.environ.get("LOCAL_WORLD_SIZE") or self.accelerator.num_processes)
        self.crops = PhotoCrops(recipe.data, sizes, codec.factor * network.stride, recipe.seed, beside)
        self.pairs = recipe.pair_steps(index)
        teaching = Teaching(recipe, self.crops, self.accelerator.device) if recipe.teacher.upscaler else None
        self.teaching = teaching if recipe.is_taught(index) else None  # one that a later stage needs is looked at now
        validates = bool(recipe.data.validation) and self.accelerator.is_main_process
        self.validation = load_crops(Path(recipe.data.validation)) if validates else None
        self.check_crops()
        self.learner = LEARNERS[self.stage.kind](recipe, self.stage, self.model, self.accelerator)
        self.watch = LossWatch()
        self.numbers = {"watch": self.watch, **self.learner.numbers}
        self.done = load_state(self.accelerator, self.folder, index, self.numbers, self.learner.copies)
        self.saved = self.step
        self.damaged: set[str] = set()
        self.signal, self.stopping = StopSignal(), False
        self.announce(start, new, unreadable)

    @property
    def step(self) -> int:
        """Optimiser steps behind, counted over all stages."""
        return self.first + self.done

    def check_crops(self) -> None:
        """See at the start that the recipe's last stage will be able to train."""
        recipe, least = self.recipe, SMALLEST * self.model.codec.factor
        if recipe.stages[-1].kind != "adversarial":
            return
        if recipe.adversarial.discriminator == "projected":
            find_classifier()
        elif self.crops.shortest_side < least:
            raise UserError(f"adversarial fine-tuning needs crops of at least {least} px; raise data.budgets.side")

    def announce(self, start: str | Path, new: list[str], unreadable: int) -> None:
        """Say what the stage starts from and what is passed over."""
        say, stage, n = self.accelerator.print, self.stage, self.accelerator.num_processes
        say(f"{stage.kind}: step {self.done} of {stage.steps}, from {start or 'fresh weights'}, processes: {n}")
        host = TorchHost(self.accelerator.device)
        if self.recipe.precision == "bf16" and host.compute_dtype((torch.bfloat16,)) is not torch.bfloat16:
            say("bfloat16 is slow here, where the processor does not compute in it; --set precision=no is faster")
        if new:
            say(f"new weights, not in {start}: {', '.join(new)}")
        if unreadable:
            say(f"{unreadable} files of data.photos are no readable images; they are passed over")

    def run(self) -> None:
        """Train to the stage's end, with a checkpoint every ``output.every`` steps and one at the end.

        Raises :class:`Stopped`, with a checkpoint, after the step in which any process got a signal.
        """
        main, every = self.accelerator.is_main_process, self.recipe.output.every
        if main:
            trim_log(self.folder, self.step)
        crops = iter(self.loader())
        with self.signal, tqdm(total=self.recipe.steps, initial=self.step, unit="step", disable=not main) as progress:
            while self.done < self.stage.steps and not self.stopping:
                figures = self.train_step(crops)
                if self.done % TRACKED == 0:
                    self.accelerator.log({f"train/{name}": value for name, value in figures.items()}, step=self.step)
                progress.update()
                shown = {"stage": self.stage.kind, "loss": f"{self.watch.mean:.5f}", **self.learner.gauges()}
                progress.set_postfix(shown)
                if self.done == self.stage.steps or (self.step % every == 0 and not self.watch.bad):
                    self.checkpoint(progress)
                elif self.stopping and not self.watch.bad:
                    self.save(self.result())  # without validation: who sends signals may soon send SIGKILL
        for tracker in self.accelerator.trackers:
            tracker.finish()
        if self.stopping and self.step < self.recipe.steps:
            number = self.signal.number or signal.SIGTERM  # another process got it
            raise Stopped(f"stopped; the same command goes on from step {self.saved}", number)

    def train_step(self, crops: Iterator[tuple[Tensor, list[str]]]) -> dict[str, float]:
        """One optimiser step; returns what its loss is made of, averaged over the processes."""
        sums: dict[str, float] = {}
        norm = 0.0
        self.learner.set_rate(lr_factor(self.step, self.first, self.recipe.flow_steps, self.recipe.optimizer))
        for part in range(self.parts):
            hr, damaged = next_crops(crops)
            self.damaged.update(damaged)
            batch = self.micro_batch(hr, part)
            with self.accelerator.accumulate(*self.learner.modules):
                loss, figures = self.learner.loss(batch, self.done)
                self.accelerator.backward(loss)
                signalled = loss.new_tensor(float(self.signal.number > 0))
                values = torch.stack([*(figure.detach() for figure in figures.values()), signalled])
                *means, signalled = self.accelerator.reduce(values, "mean").tolist()  # pyright: ignore[reportAttributeAccessIssue]
                self.stopping |= signalled > 0
                for name, value in zip(figures, means, strict=True):
                    sums[name] = sums.get(name, 0.0) + value / self.parts
                if self.accelerator.sync_gradients:
                    self.watch.check(self.learner.observe(sums), self.step + 1, self.folder)
                    norm = self.update()
        self.done += 1
        return {**sums, "gradient": norm}

    def update(self) -> float:
        """Optimiser step; returns the norm of the gradient."""
        try:
            return self.learner.update(self.done)
        except FloatingPointError as error:
            raise self.watch.stopped(f"{error} at step {self.step + 1}", self.folder) from error

    def loader(self) -> DataLoader:
        """This process's crops from here on, a micro-batch at a time."""
        accelerator, left = self.accelerator, self.pairs[self.done :]
        sampler = StepSampler(self.crops, left, self.parts, accelerator.process_index, accelerator.num_processes)
        return DataLoader(
            self.crops,
            batch_sampler=sampler,
            num_workers=self.recipe.data.workers,
            collate_fn=collate,
            pin_memory=accelerator.device.type == "cuda",
            worker_init_fn=outlive_signals,
        )

    def micro_batch(self, hr: Tensor, part: int) -> Batch:
        """Crops (B, 3, H, W) with this process's share of what is drawn for the whole step."""
        recipe, accelerator, n = self.recipe, self.accelerator, len(hr)
        parts, pairs = self.parts * accelerator.num_processes, self.pairs[self.done]
        place, groups = part * accelerator.num_processes + accelerator.process_index, recipe.degrade.groups // parts
        generator = generator_of(recipe.seed, self.step)
        draws = draw(recipe, self.stage, n * parts, generator, self.done, self.learner.guided)
        own = slice(place * n, (place + 1) * n)
        generators = pair_generators(recipe, pairs, range(place * groups, (place + 1) * groups))
        teach = self.teaching.of(pairs, own, n * parts) if self.teaching else None
        hr, draws = hr.to(accelerator.device, non_blocking=True), draws.rows(own, accelerator.device)
        return make_batch(hr, draws, recipe, self.model, generators, teach)

    def checkpoint(self, progress: tqdm) -> None:
        """Validate, log and save."""
        model = self.result()
        damaged = {name for names in gather_object([sorted(self.damaged)]) for name in names}
        if self.accelerator.is_main_process:
            if self.done == self.stage.steps and self.stage.keep:
                keep_start(model, start_of(self.recipe, self.index), self.stage.keep)
            line = {"step": self.step, "stage": self.stage.kind, "loss": round(self.watch.mean, 6)}
            line |= {**self.learner.gauges(), "damaged": len(damaged), **self.validate(model)}
            progress.write(append_log(self.folder, line))
            if damaged:
                progress.write(f"damaged photographs, passed over: {', '.join(sorted(damaged))}")
        self.save(model)

    def result(self) -> Model:
        """The model as it is validated and exported; all processes call it."""
        return dataclasses.replace(self.model, flow=self.learner.result())

    def save(self, model: Model) -> None:
        """Export; then the state, so that whatever it says is behind has been written."""
        accelerator, over = self.accelerator, self.done == self.stage.steps
        if accelerator.is_main_process:
            with written(self.folder):
                export(model, self.recipe, self.index, self.step, over)
        accelerator.wait_for_everyone()
        if not over:  # a stage that is over is known by its file
            save_state(accelerator, self.folder, self.index, self.done, self.numbers, self.learner.copies)
        self.saved = self.step

    def validate(self, model: Model) -> dict[str, float]:
        """Figures on the held-out photographs, which go to the trackers too, with a picture."""
        if self.validation is None:
            return {}
        guided = self.stage.kind in GUIDED and self.recipe.guidance.mode == "input"
        model.to(self.accelerator.device)  # of sharded weights it lies in host memory
        figures, picture = validate(model, self.validation, guided)
        with written(self.folder):
            save_png(picture, self.folder / f"validation-{self.step:06d}.png")
        self.accelerator.log({f"validation/{name}": value for name, value in figures.items()}, step=self.step)
        track_picture(self.accelerator, picture, self.step)
        return figures


def next_crops(crops: Iterator[tuple[Tensor, list[str]]]) -> tuple[Tensor, list[str]]:
    """The next micro-batch; an error from a worker process without the traceback that comes with it."""
    try:
        return next(crops)
    except UserError as error:
        raise UserError(str(error).rpartition("UserError: ")[2].strip()) from error
