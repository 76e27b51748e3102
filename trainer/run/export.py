"""The files that people load: checkpoints and LoRAs."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...flowmapsr_core.files.checkpoint import save_checkpoint
from ...flowmapsr_core.files.lora import save_lora
from ...flowmapsr_core.files.origin import ORIGIN
from ...flowmapsr_core.method.looks import learned_guidance
from ...flowmapsr_core.model import Model
from ...flowmapsr_core.upscaling.host import DTYPES
from ..recipe.recipe import Recipe, Stage


def result_file(recipe: Recipe, stage: Stage) -> Path:
    """What people load, written anew at every checkpoint."""
    name = "lora.safetensors" if stage.kind == "adversarial" else "model.safetensors"
    return Path(recipe.output.folder) / name


def stage_file(recipe: Recipe, index: int) -> Path:
    """The result of a stage in full precision. It is written last: a stage whose file is there is done."""
    return Path(recipe.output.folder) / f"stage-{index + 1}-{recipe.stages[index].kind}.safetensors"


def start_of(recipe: Recipe, index: int) -> str | Path:
    """The checkpoint that a stage starts from; empty for fresh weights."""
    if index == 0:
        return recipe.start_from
    # a LoRA belongs to the model that people load, rounded as it is
    adversarial = recipe.stages[index].kind == "adversarial"
    return result_file(recipe, recipe.stages[index - 1]) if adversarial else stage_file(recipe, index - 1)


def export(model: Model, recipe: Recipe, index: int, step: int, done: bool) -> None:
    """Write the weights as a checkpoint that upscaling loads, or as a LoRA; the stage's file too if it is done.

    Author and licence are those of what the run started from, unless the recipe gives others.
    """
    output, stage, settings = recipe.output, recipe.stages[index], recipe.adversarial
    info: dict[str, Any] = {key: model.info[key] for key in ORIGIN if key in model.info}
    info |= {key: text for key in ("title", "author", "license") if (text := getattr(output, key))}
    info["training"] = {
        "steps": step,
        "batches": [f"{budget.batch} x {budget.side} px" for budget in recipe.data.budgets],
        "stages": [_described(stage) for stage in recipe.stages[: index + 1]],
        "guidance": recipe.guidance.mode,
    }
    if any(recipe.is_taught(stage) for stage in range(index + 1)):
        info["training"]["teacher"] = Path(recipe.teacher.upscaler).name
    info["training"]["learned_guidance"] = bool(learned_guidance(info["training"]) or model.info.get("guided_before"))
    result = result_file(recipe, stage)
    if stage.kind == "adversarial":
        from ..learning.adapter import lora_layers  # peft takes seconds to import

        for path in (result, stage_file(recipe, index))[: 1 + done]:
            save_lora(path, lora_layers(model.flow), settings.rank, settings.alpha, model, info)
        return
    described = replace(model, info=info)
    save_checkpoint(described, result, DTYPES[output.dtype])
    if done:
        save_checkpoint(described, stage_file(recipe, index))


def _described(stage: Stage) -> dict[str, Any]:
    """A stage as the checkpoint tells of it, without the folder in which the trainer has its teacher."""
    described = asdict(stage)
    name = Path(described.pop("teacher")).name
    return described | ({"teacher": name} if name else {})
