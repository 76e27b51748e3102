"""The training loop."""

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..flowmapsr_core.checkpoint import load_model, save_checkpoint
from ..flowmapsr_core.device import DTYPES
from ..flowmapsr_core.errors import UserError
from ..flowmapsr_core.model import FlowMap
from .batch import make_batch, make_target
from .data import PhotoCrops
from .ema import Ema
from .recipe import Optimizer, Recipe
from .validation import validate

EXPLODED = 20.0  # times the running loss
PATIENCE = 20  # steps in a row


def train(recipe: Recipe) -> Path:
    """Run a recipe to its end, from its last checkpoint if there is one; returns the exported checkpoint.

    Every ``output.every`` steps: the training state, the EMA weights as a loadable checkpoint, a validation picture
    and a line in ``log.jsonl``. Raises :class:`UserError` for unusable data or if the loss explodes; the last
    checkpoint stays.
    """
    accelerator = Accelerator(
        mixed_precision=recipe.precision, dataloader_config=DataLoaderConfiguration(split_batches=True)
    )
    set_seed(recipe.seed)
    folder = Path(recipe.output.folder)
    model = build_model(recipe)
    ema = Ema(model, recipe.optimizer.ema)
    optimizer, schedule = build_optimizer(model, recipe)
    model, optimizer = accelerator.prepare(model, optimizer)
    ema.model.to(accelerator.device)
    accelerator.register_for_checkpointing(schedule, ema)
    step = resume(accelerator, folder)
    loader = accelerator.prepare(build_loader(recipe, step))
    watch = LossWatch()
    progress = tqdm(total=recipe.steps, initial=step, unit="step", disable=not accelerator.is_main_process)
    for hr in loader:
        stage = recipe.stage_at(step)
        generator = step_generator(recipe.seed, step, accelerator.process_index)
        batch = make_batch(hr, recipe, stage, ema.model.codec, generator)
        with accelerator.autocast():
            target = make_target(batch, ema.model, recipe, stage)
        u = model(batch.x_t, batch.t, batch.s, batch.w, batch.negative)
        error = (u.float() - target).square().mean(dim=(1, 2, 3))
        accelerator.backward((batch.weight * error).mean())
        norm = accelerator.clip_grad_norm_(model.parameters(), recipe.optimizer.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.update(accelerator.unwrap_model(model), step)
        step += 1
        watch.check(error.mean().item(), step, folder)
        progress.update()
        progress.set_postfix(stage=stage.kind, loss=f"{watch.mean:.5f}", grad=f"{norm:.3f}")
        if step == recipe.steps or (step % recipe.output.every == 0 and not watch.bad):
            save(accelerator, folder, step)
            if accelerator.is_main_process:
                export(ema.model, recipe, step, folder / "model.safetensors")
                line = {
                    "step": step,
                    "stage": stage.kind,
                    "loss": watch.mean,
                    **validate(ema.model, recipe, folder, step),
                }
                progress.write(log(folder, line))
    progress.close()
    return folder / "model.safetensors"


def build_optimizer(model: FlowMap, recipe: Recipe) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW and its schedule."""
    settings = recipe.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.lr, betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=True
    )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, recipe.steps, settings))


def build_loader(recipe: Recipe, step: int) -> DataLoader:
    """HR crops from a step on: crop i is the same whether the run was interrupted or not."""
    data = recipe.data
    photos = PhotoCrops(Path(data.photos), data.crop, data.zoom, recipe.seed)
    indices = range(step * recipe.batch, recipe.steps * recipe.batch)
    return DataLoader(photos, recipe.batch, sampler=indices, num_workers=data.workers)


def build_model(recipe: Recipe) -> FlowMap:
    """Fresh weights of the recipe's configuration, or those of the checkpoint it starts from."""
    if recipe.start_from:
        model = load_model(recipe.start_from)
        model.info = {}
    else:
        model = FlowMap.from_config(recipe.model)
        with torch.no_grad():
            for prompt in model.prompts.values():
                prompt.normal_()
    model.requires_grad_(True).train()
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def step_generator(seed: int, step: int, process: int) -> torch.Generator:
    """Randomness of one step, so that a resumed run draws what an uninterrupted one would."""
    entropy = np.random.SeedSequence((seed, step, process)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(entropy[0]))


def lr_factor(step: int, steps: int, optimizer: Optimizer) -> float:
    """Linear warm-up, constant, cosine to zero."""
    rise = min(1.0, (step + 1) / max(optimizer.warmup, 1))
    start = steps * (1 - optimizer.decay)
    fall = max(0.0, (step - start) / max(steps - start, 1))
    return rise * 0.5 * (1 + math.cos(math.pi * min(fall, 1.0)))


class LossWatch:
    """Running loss; stops a run that has blown up."""

    def __init__(self) -> None:
        self.mean, self.bad = 0.0, 0

    def check(self, loss: float, step: int, folder: Path) -> None:
        """Raise :class:`UserError` at a NaN, or after PATIENCE steps above EXPLODED times the running loss."""
        if not math.isfinite(loss):
            raise UserError(f"the loss is {loss} at step {step}; the last good checkpoint is in {folder}")
        self.bad = self.bad + 1 if self.mean and loss > EXPLODED * self.mean else 0
        if self.bad >= PATIENCE:
            raise UserError(
                f"the loss has exploded at step {step} ({loss:.3g}, {EXPLODED:g} times the running {self.mean:.3g}); "
                f"the last good checkpoint is in {folder}; lower optimizer.lr"
            )
        if not self.bad:
            self.mean = loss if not self.mean else 0.99 * self.mean + 0.01 * loss


def resume(accelerator: Accelerator, folder: Path) -> int:
    """Load the last training state; returns its step, 0 if there is none."""
    state = folder / "state"
    if not state.is_dir():
        state = folder / "state.old"  # stopped between the two renames of save()
    if not state.is_dir():
        return 0
    accelerator.load_state(str(state))
    return int((state / "step").read_text())


def save(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Write the training state beside the last one, then put it in its place."""
    fresh, state, old = folder / "state.partial", folder / "state", folder / "state.old"
    accelerator.save_state(str(fresh))
    if accelerator.is_main_process:
        (fresh / "step").write_text(str(step))
        if state.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(state, old)
        os.replace(fresh, state)
        shutil.rmtree(old, ignore_errors=True)


def export(model: FlowMap, recipe: Recipe, step: int, path: Path) -> None:
    """Write the weights as a checkpoint that upscaling loads."""
    stages = {stage.kind: stage.steps for stage in recipe.stages}
    info = {key: value for key in ("title", "author", "license") if (value := getattr(recipe.output, key))}
    model.info = {
        **info,
        "training": {"steps": step, "batch": recipe.batch, "crop": recipe.data.crop, "stages": stages},
    }
    save_checkpoint(model, path, DTYPES[recipe.output.dtype])


def log(folder: Path, line: dict) -> str:
    """Append a line to the run's log; returns it."""
    text = json.dumps(line)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(text + "\n")
    return text
