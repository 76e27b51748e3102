"""The training loop: stages one after another, each from the checkpoint of the one before."""

from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from tqdm import tqdm

from .accelerator import start_accelerator, track_picture
from .batch import Batch, draw, generator_of, make_batch
from .crops import PhotoCrops, StepSampler, collate
from .export import export, result_file, stage_file, start_of
from .learner import AdversarialLearner, Learner
from .recipe import Recipe
from .schedule import lr_factor
from .start import build_model
from .state import append_log, load_state, save_state, trim_log, written
from .validation import validate
from .watch import LossWatch

TRACKED = 10  # steps between the figures that trackers get


def train(recipe: Recipe) -> Path:
    """Run a recipe's stages, from the last checkpoint if there is one; returns the checkpoint (or LoRA) of the last.

    Raises :class:`UserError` for unusable data, a full disk or a loss that explodes; the last checkpoint stays.
    """
    for index in range(len(recipe.stages)):
        if not stage_file(recipe, index).exists():
            StageRun(recipe, index).run()
    return result_file(recipe, recipe.stages[-1])


class StageRun:
    """One stage: what it trains, where it stands (``done`` steps of it), and how it goes on."""

    def __init__(self, recipe: Recipe, index: int) -> None:
        self.recipe, self.index, self.stage = recipe, index, recipe.stages[index]
        self.folder, self.first, self.parts = (
            Path(recipe.output.folder),
            recipe.first_step(index),
            recipe.optimizer.accumulate,
        )
        self.accelerator = start_accelerator(recipe)
        set_seed(recipe.seed + index)
        start = start_of(recipe, index)
        model, new = build_model(recipe, start)
        adversarial = self.stage.kind == "adversarial"
        if adversarial:
            from .lora import add_lora  # peft takes seconds to import

            add_lora(model, recipe.adversarial.rank, recipe.adversarial.alpha)
        self.codec = model.codec
        self.crops = PhotoCrops(recipe.data, model.codec.factor * model.network.stride, recipe.seed)
        self.learner = (AdversarialLearner if adversarial else Learner)(recipe, self.stage, model, self.accelerator)
        self.watch = LossWatch()
        self.accelerator.register_for_checkpointing(self.watch)
        self.done = load_state(self.accelerator, self.folder, index)
        self.damaged: set[str] = set()
        self.announce(start, new)

    @property
    def step(self) -> int:
        """Optimiser steps behind, counted over all stages."""
        return self.first + self.done

    def announce(self, start: str | Path, new: list[str]) -> None:
        """Say what the stage starts from and what is passed over."""
        say, stage = self.accelerator.print, self.stage
        say(f"{stage.kind}: step {self.done} of {stage.steps}, from {start or 'fresh weights'}")
        if new:
            say(f"new weights, not in {start}: {', '.join(new)}")
        if self.crops.unreadable:
            say(f"{self.crops.unreadable} files of data.photos are no readable images; they are passed over")

    def run(self) -> None:
        """Train to the stage's end, with a checkpoint every ``output.every`` steps and one at the end."""
        main, every = self.accelerator.is_main_process, self.recipe.output.every
        if main:
            trim_log(self.folder, self.step)
        crops = iter(self.loader())
        with tqdm(
            total=self.recipe.steps, initial=self.step, unit="step", disable=not main, smoothing=0.05
        ) as progress:
            while self.done < self.stage.steps:
                figures = self.train_step(crops)
                if self.done % TRACKED == 0:
                    self.accelerator.log({f"train/{name}": value for name, value in figures.items()}, step=self.step)
                progress.update()
                shown = {"stage": self.stage.kind, "loss": f"{self.watch.mean:.5f}", **self.learner.figures()}
                progress.set_postfix(shown)
                if self.done == self.stage.steps or (self.step % every == 0 and not self.watch.bad):
                    self.checkpoint(progress)
        self.accelerator.end_training()

    def train_step(self, crops: Iterator[tuple[torch.Tensor, list[str]]]) -> dict[str, float]:
        """One optimiser step; returns what its loss is made of and the norm of the gradient."""
        sums: dict[str, float] = {}
        norm = 0.0
        for part in range(self.parts):
            hr, damaged = next(crops)
            self.damaged.update(damaged)
            batch = self.micro_batch(hr, part)
            with self.accelerator.accumulate(*self.learner.modules):
                loss, terms = self.learner.loss(batch, self.done)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    end = self.recipe.flow_steps
                    norm = self.learner.update(self.done, lr_factor(self.step, self.first, end, self.recipe.optimizer))
            values = torch.stack([term.detach() for term in terms.values()])
            means = self.accelerator.reduce(values, "mean").tolist()  # pyright: ignore[reportAttributeAccessIssue]
            for name, value in zip(terms, means, strict=True):
                sums[name] = sums.get(name, 0.0) + value / self.parts
        self.done += 1
        self.watch.check(sums, self.step, self.folder)
        return {**sums, "gradient": norm, **self.learner.figures()}

    def loader(self) -> DataLoader:
        """This process's crops from here on, a micro-batch at a time."""
        accelerator = self.accelerator
        end = self.first + self.stage.steps
        return DataLoader(
            self.crops,
            batch_sampler=StepSampler(
                self.crops, self.step, end, self.parts, accelerator.process_index, accelerator.num_processes
            ),
            num_workers=self.recipe.data.workers,
            collate_fn=collate,
            pin_memory=accelerator.device.type == "cuda",
        )

    def micro_batch(self, hr: torch.Tensor, part: int) -> Batch:
        """Crops (B, 3, H, W) with this process's share of what is drawn for the whole step."""
        recipe, accelerator, n = self.recipe, self.accelerator, len(hr)
        parts = self.parts * accelerator.num_processes
        place, groups = part * accelerator.num_processes + accelerator.process_index, recipe.degrade.groups // parts
        draws = draw(recipe, self.stage, n * parts, generator_of(recipe.seed, self.step))
        own = draws.rows(slice(place * n, (place + 1) * n), accelerator.device)
        generators = [generator_of(recipe.seed, self.step, place * groups + group) for group in range(groups)]
        return make_batch(hr.to(accelerator.device, non_blocking=True), own, recipe, self.codec, generators)

    def checkpoint(self, progress: tqdm) -> None:
        """Save the state, export the weights, validate, log; the stage's own file last, when it is done."""
        accelerator, recipe, learner = self.accelerator, self.recipe, self.learner
        save_state(accelerator, self.folder, self.index, self.done)
        model = learner.result()
        if accelerator.is_main_process:
            with written(self.folder):
                figures, picture = validate(model, recipe, self.folder, self.step)
            line = {"step": self.step, "stage": self.stage.kind, "loss": round(self.watch.mean, 6)}
            line |= {**learner.figures(), **figures, "damaged": sorted(self.damaged)}
            progress.write(append_log(self.folder, line))
            accelerator.log({f"validation/{name}": value for name, value in figures.items()}, step=self.step)
            if picture is not None:
                track_picture(accelerator, picture, self.step)
            with written(self.folder):
                export(model, recipe, self.index, self.step, self.done == self.stage.steps)
        accelerator.wait_for_everyone()
