"""What is compared: tables of variants, each a change to one recipe, and the settings they are sampled with."""

from dataclasses import dataclass, replace
from typing import Any

BASE, SSD, CONVERTED = "base", "SSD", "converted"  # what others start from; the last is an upscaler, converted
UPSCALER = "UPSCALER"  # in changes, where its file is to stand
RATE = "optimizer.lr=3e-4"  # of what starts from the base, whose 8e-4 is more than ESD and LSD bear


@dataclass(frozen=True)
class Variant:
    """A run.

    Attributes:
        name: of the run, and of its row.
        stages: kind and objective of each, or the kind alone; they share the steps out evenly.
        start: name of the variant that it starts from, or CONVERTED; empty for fresh weights.
        changes: to the recipe, as ``--set`` takes them; UPSCALER stands for a file.
    """

    name: str
    stages: tuple[str, ...]
    start: str = ""
    changes: tuple[str, ...] = ()

    def recipe(self, steps: int) -> str:
        """The recipe's stages, for ``--set``."""
        kinds = (stage.partition(" ") for stage in self.stages)
        parts = [
            f'{{kind="{kind}",steps={steps // len(self.stages)}' + (f',objective="{objective}"}}' if objective else "}")
            for kind, _, objective in kinds
        ]
        return f"stages=[{','.join(parts)}]"


@dataclass(frozen=True)
class Column:
    """How a variant is sampled.

    Attributes:
        settings: arguments of ``upscale``.
        lora_scale: strength of its LoRA, if it has trained one.
        blend: share of the sampled picture; the rest is the posterior mean.
        euler: by the instantaneous velocity ``u(x, t, t)``, as models of flow matching are sampled.
    """

    name: str
    settings: dict[str, Any]
    lora_scale: float = 1.0
    blend: float = 1.0
    euler: bool = False


@dataclass(frozen=True)
class Table:
    """Variants by columns.

    Attributes:
        title: what the rows differ in.
        variants: the rows.
        columns: the columns.
    """

    title: str
    variants: tuple[Variant, ...]
    columns: tuple[Column, ...]

    @property
    def wants_upscaler(self) -> bool:
        """Whether a variant starts from an upscaler, or is taught by one."""
        return any(each.start == CONVERTED or UPSCALER in "".join(each.changes) for each in self.variants)


def _steps(n: int) -> Column:
    return Column(f"{n} step{'s' * (n > 1)}", {"steps": n, "guidance": 1.0})


MEAN = Column("posterior mean", {"look": "faithful"})
BY_STEPS = (MEAN, _steps(1), _steps(2), _steps(4))
ENDS = (MEAN, _steps(1))
EULER = (*ENDS, *(replace(_steps(n), name=f"{n} Euler steps", euler=True) for n in (4, 16)))
DIAL = (
    *(Column(f"realism {r:g}", {"steps": 1, "guidance": 1.0, "realism": r}) for r in (0, 0.25, 0.5, 0.75, 1)),
    *(Column(f"blend {r:g}", {"steps": 1, "guidance": 1.0}, blend=r) for r in (0.25, 0.5, 0.75)),
)

OBJECTIVES = (
    Variant("FM", ("flow-matching",), BASE, (RATE,)),
    Variant(SSD, ("self-distillation shortcut",), BASE, (RATE,)),
    Variant("LSD", ("self-distillation lagrangian",), BASE, (RATE,)),
    Variant("trajectory", ("self-distillation trajectory",), BASE, (RATE,)),
    Variant("LSD, biased", ("self-distillation lagrangian-biased",), BASE, (RATE,)),
    Variant("ESD", ("self-distillation eulerian",), BASE, (RATE,)),
    Variant("ESD, lr 1e-4", ("self-distillation eulerian",), BASE, ("optimizer.lr=1e-4",)),
)
GUIDED = tuple(
    Variant(f"random w up to {w:g}", ("guided",), SSD, (RATE, f"guidance.scale=[1, {w:g}]"))
    for w in (2.0, 2.5, 3.0, 3.5, 4.0)
)
FIXED = Variant("fixed w = 3.5", ("guided",), SSD, (RATE, "guidance.mode=fixed"))
SEEN = Variant("random w, an input", ("guided",), SSD, (RATE, "guidance.mode=input"))
ADVERSARIAL = Variant("adversarial", ("adversarial",), GUIDED[3].name, ("adversarial.lr=3e-5",))

FROM_SCRATCH = ("flow-matching", "self-distillation shortcut")
NOISE = tuple(
    Variant(
        f"noise {noise:g}{', LR seen' * condition}",
        FROM_SCRATCH,
        changes=(f'model.method={{type="flow-map",noise={noise:g},condition={str(condition).lower()}}}',),
    )
    for condition in (False, True)
    for noise in (0, 0.01, 0.05, 0.1, 0.2)
)
PARTS = (
    Variant("regression", ("flow-matching",), changes=("times.start=1",)),
    Variant("flow matching", ("flow-matching",)),
    NOISE[0],
    NOISE[3],
    Variant(
        "straight to a teacher",
        ("flow-matching", "self-distillation straight"),
        changes=(f'teacher={{upscaler="{UPSCALER}",of="jumps"}}',),
    ),
)
CONSISTENCY = tuple(
    Variant(
        f"consistency, T = {T}",
        ("consistency",),
        changes=('model.method={type="ctmsr",noise=0.1}', f"times.grids=[{T}]"),
    )
    for T in (3, 8, 16)
)

# one network with two ends: samples at t = 1 learn the mean of HR (s = 1), jumps from there (s = 0) another picture
COMPACT = ("model={}", "data.budgets=[{side=128,batch=12}]", "times.levels=1", "times.jumps=0.5", "optimizer.lr=1e-4")
ALONE = (*COMPACT, "times.start=0.5")
TAUGHT = (*COMPACT, "times.start=1", f'teacher={{upscaler="{UPSCALER}",of="jumps"}}')
JUDGED = (
    'adversarial={discriminator="projected",evaluations=1,lr=1e-4,rank=16,alpha=16,warmup=50}',
    "guidance={mode='hidden',scale=[1,1],negative=0}",
)
TO_TEACHER = "self-distillation straight"
LOSSES = (
    Variant("HR alone", ("self-distillation shortcut",), CONVERTED, ALONE),
    Variant("HR, features 0.05", ("self-distillation shortcut",), CONVERTED, (*ALONE, "loss.features=0.05")),
    Variant("teacher", (TO_TEACHER,), CONVERTED, TAUGHT),
    *(
        Variant(f"teacher, features {w:g}", (TO_TEACHER,), CONVERTED, (*TAUGHT, f"loss.features={w:g}"))
        for w in (0.02, 0.05, 0.2)
    ),
    Variant("teacher, projected", ("adversarial straight",), "teacher", (*TAUGHT, *JUDGED)),
)

TABLES = {
    "objectives": Table("objective", OBJECTIVES, BY_STEPS),
    "guidance": Table("guidance", (*GUIDED, FIXED), BY_STEPS),
    "w": Table(
        "w at inference, 2 steps",
        (SEEN,),
        tuple(Column(f"{w:g}", {"steps": 2, "guidance": w}) for w in (1.0, 2.0, 3.5)),
    ),
    "lora": Table(
        "LoRA scale, 2 steps",
        (ADVERSARIAL,),
        tuple(Column(f"{s:g}", {"steps": 2, "guidance": 1.0}, s) for s in (0.0, 1.0, 1.5, 2.0, 3.0)),
    ),
    "noise": Table("noise at the LR end", NOISE, ENDS),
    "parts": Table("from scratch", PARTS, EULER),
    "dial": Table("realism, one evaluation", (NOISE[0], NOISE[8]), DIAL),
    "consistency": Table("consistency", CONSISTENCY, ENDS),
    "losses": Table("from a converted upscaler", LOSSES, ENDS),
}
ALL = {variant.name: variant for table in TABLES.values() for variant in table.variants}
ALL[BASE] = Variant(BASE, ("flow-matching",))
