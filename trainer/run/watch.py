"""Watches the loss, and stops a run that has blown up before it spoils the checkpoints."""

import math
from pathlib import Path

from ...flowmapsr_core.errors import UserError

EXPLODED = 20.0  # times the running loss
PATIENCE = 20  # steps in a row
FLOOR = 1e-6  # a term that is zero for a while


class Exploded(UserError):
    """Training was stopped."""


class LossWatch:
    """Running means of the loss terms.

    Attributes:
        means: by term.
        bad: steps in a row at which a term was far above its mean.
    """

    def __init__(self) -> None:
        self.means: dict[str, float] = {}
        self.bad = 0

    @property
    def mean(self) -> float:
        """Running loss."""
        return sum(self.means.values())

    def check(self, terms: dict[str, float], step: int, folder: Path) -> None:
        """Raise :class:`Exploded`, naming the term, at a NaN or after PATIENCE steps above EXPLODED times its mean."""
        high = ""
        for name, value in terms.items():
            if not math.isfinite(value):
                raise self.stopped(f"the {name} loss is {value} at step {step}", folder)
            mean = self.means.get(name)
            if mean is not None and value > EXPLODED * max(mean, FLOOR):
                high = high or f"the {name} loss has exploded at step {step} ({value:.3g}, its running mean {mean:.3g})"
        self.bad = self.bad + 1 if high else 0
        if self.bad >= PATIENCE:
            raise self.stopped(high, folder)
        if not high:
            for name, value in terms.items():
                self.means[name] = 0.99 * self.means.get(name, value) + 0.01 * value

    @staticmethod
    def stopped(what: str, folder: Path) -> Exploded:
        """The error for what has blown up."""
        there = any(folder.glob("*.safetensors"))
        kept = f"the last good checkpoint is in {folder}" if there else "there was no checkpoint yet"
        lower = "lower optimizer.lr (adversarial.lr, if it was a LoRA's stage)"
        return Exploded(f"{what}; {kept}; {lower} and begin anew with another output.folder")

    def state_dict(self) -> dict:
        return {"means": dict(self.means), "bad": self.bad}

    def load_state_dict(self, state: dict) -> None:
        self.means, self.bad = dict(state["means"]), state["bad"]
