"""The method table: every method of every group, and the run that each is tried in. A new choice joins by its YAML file alone.

`METHODS` is what `tests/test_composition.py` crosses with `tests/support/layouts.py`; docs/composition.md is written from the same cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONF = Path(__file__).resolve().parents[2] / "conf"

#: The run of every cell: digits, 2 epochs of 3 steps whose last batch has 8 examples; float32; momentum, so that state matters.
BASE = (
    "train.max_examples=72",
    "train.batch_size=32",
    "train.duration=6step",
    "log.every=1step",
    "log.report=false",
    "eval.every=3step",
    "eval.max_examples=40",
    "eval.batch_size=16",
    "checkpoint.every=3step",
    "checkpoint.keep_last=9",
    "precision=fp32",
    "reg=[]",
    "optim=sgd",
    "optim.lr=0.05",
)

#: Small networks: four sections and pairs of layers to divide; one with convolutions and batch norm; one with dropping of whole paths.
MLP = ("model=mlp", "model.hidden=[16,16,16]")
NORMED = ("model=wide_resnet", "model.depth=10", "model.width_factor=1", "train.max_examples=64", "optim.lr=0.01")
TRANSFORMER = ("model=vit_tiny", "model.embed_dim=16", "model.depth=2", "model.num_heads=2", "model.patch_size=2")

#: The file of choices of a user's own.
OWN = Path(__file__).with_name("own_parts.py")

#: What a choice needs besides its name.
SPECIAL: dict[str, tuple[str, ...]] = {
    "optim.custom": (f"optim.file={OWN}", "optim.elementwise=true"),
    "sched.custom": (f"sched.file={OWN}", "sched.name=sawtooth"),
    "augment.custom": (f"augment.custom.file={OWN}", "augment.custom.name=posterize"),
    "reg.whitening": ("model=small_cnn", "model.channels=[8,16]", "model.hidden=16"),
    "reg.drop_path": TRANSFORMER,
    "reg.dropblock": NORMED,
    "average.swa": (*NORMED, "norm=sync", "average.swa.start_fraction=0.3"),
    "distill.attention_transfer": ("distill.layers=[stages.1]", *NORMED, "norm=sync"),
    "distill.fitnet": ("distill.layers=[layers.1]",),
    "sched.inverse_sqrt": ("sched.timescale=2step",),
    "sched.one_cycle": ("sched.cycle_momentum=true",),
    "norm.ghost": ("norm.virtual_batch_size=4",),
    "prune.depth": TRANSFORMER,
    "prune.magnitude": ("prune.cuts=2",),
    "prune.structured": ("prune.round_to=2",),
}

#: Choices that are the run of BASE itself, or only stand for others.
LEFT_OUT = {
    "augment.crop",
    "augment.flip",
    "optim.sgd",
    "precision.fp32",
    "precision.auto",
    "norm.none",
    "quant.none",
    "distill.none",
    "prune.none",
    "adapt.none",
    "federated.none",
}

#: Choices that act on the finished network alone, in one process: no layout takes part (tests/choices/quant, tests/export).
LEFT_OUT |= {"quant.int8_static", "quant.int8_dynamic", "quant.int8_weight_only", "quant.float8"}

#: Choices that only several ranks can make: their run in one process is the run without them, and they are resumed on the first
#: layout that trains them.
SEVERAL = {"monitor.straggler", "parallel.sequence=true"}

#: Scenes of one or several digits.
SCENES = (
    "data=scenes",
    "data.pictures=digits",
    "data.train_size=90",
    "data.test_size=20",
    "data.image_size=16",
    "data.channels=1",
)

#: A small decoder on the files of a folder of texts; in a pipeline each section has weights that are trained.
TEXT = (
    *(
        "task=language_model",
        "task.sample_tokens=0",
        "data=text",
        f"data.path={CONF / 'model'}",
        "data.suffixes=[.yaml]",
    ),
    *("data.context=16", "data.val_fraction=0.2", "data.test_fraction=0.2"),
    *("model=gpt", "model.embed_dim=16", "model.depth=2", "model.num_heads=2"),
)

#: Settings of `train` that change how a step is computed.
SETTINGS: dict[str, tuple[str, ...]] = {
    "optim.decoupled_weight_decay=true": ("optim.decoupled_weight_decay=true", "optim.weight_decay=0.05"),
    "train.micro_batch_size": ("train.micro_batch_size=8",),
    "train.activation_checkpointing=full": (*TRANSFORMER, "train.activation_checkpointing=full"),
    "train.activation_checkpointing=selective": (*NORMED, "train.activation_checkpointing=selective", "norm=sync"),
    "train.unfreeze_at=2step": ('train.freeze=["layers.1.*"]', "train.unfreeze_at=2step"),
    "data.pipeline=streaming": ("data.pipeline=streaming", "data.num_workers=0"),
    # Epochs of 3 steps of 32, 2 of 40 and 2 of 50.
    "sched.applies_to=batch_size": (
        "sched=step",
        "sched.applies_to=batch_size",
        "sched.step_size=2step",
        "sched.gamma=1.25",
    ),
    # 9 numbers and a category; standardized targets.
    "task=regression": ("task=regression", "data=diabetes"),
    "task=multilabel": ("task=multilabel", *SCENES),
    "task=segmentation": (
        *("task=segmentation", "task.loss=cross_entropy_dice", *SCENES, "norm=group"),
        *("model=unet", "model.width=4", "model.depth=2"),
        *("augment=[crop,flip,rotation,cutmix]", "augment.crop.padding=2", "augment.flip.probability=0.5"),
    ),
    # A data set, a loss and a metric of a user's own file.
    "data=custom task=custom": (
        *("data=custom", f"data.file={OWN}", "data.name=make_bars"),
        *("task=custom", f"task.file={OWN}", "task.loss=hinge", "task.metrics=[worst_recall]"),
    ),
    "task=language_model": TEXT,
    "parallel.sequence=true": (*TEXT, "parallel.sequence=true"),
    "task.loss=focal": (
        "task.loss=focal",
        "task.class_weights=balanced",
        "data.sampler=balanced",
        "task.metrics=[auroc]",
    ),
    "reg=[label_smoothing,grad_clip] +augment=[mixup] average=[ema] sched=plateau": (
        "reg=[label_smoothing,grad_clip]",
        "+augment=[mixup]",
        "average=[ema]",
        "sched=plateau",
        "reg.grad_clip.max=0.5",
    ),
}


@dataclass(frozen=True)
class Tried:
    """One row of the table: the method's name as it is typed, and the whole line of overrides. `{teacher}` is a trained run.

    `several`: one process refuses it, and is compared without it.
    """

    name: str
    overrides: tuple[str, ...]
    several: bool = False


def line(*words: str) -> tuple[str, ...]:
    """`words` with each key once: the last one wins. A network that replaces another takes the other's knobs away."""
    kept: dict[str, str] = {}
    for word in words:
        key = word.partition("=")[0]
        if key == "model" and kept.get("model", word) != word:
            kept = {other: text for other, text in kept.items() if not other.startswith("model.")}
        kept[key] = word
    return tuple(kept.values())


def methods() -> list[Tried]:
    """Every row, in the order of groups and names."""
    rows = []
    for group, form in (
        ("sched", "{}={}"),
        ("optim", "{}={}"),
        ("norm", "{}={}"),
        ("augment", "+{}=[{}]"),
        ("reg", "{}=[{}]"),
        ("average", "{}=[{}]"),
        ("monitor", "{}=[{}]"),
        ("precision", "{}={}"),
        ("adapt", "{}={}"),
        ("distill", "{}={}"),
        ("quant", "{}={}"),
        ("prune", "{}={}"),
        ("federated", "{}={}"),
    ):
        for file in sorted((CONF / group).glob("*.yaml")):
            key = f"{group}.{file.stem}"
            if key in LEFT_OUT:
                continue
            extra = (*(NORMED if group == "norm" else ()), *SPECIAL.get(key, ()))
            if group == "optim":
                extra = (*extra, "optim.lr=1e-3")
            if "???" in file.read_text(encoding="utf-8"):
                extra = (*extra, f"{group}.teacher={{teacher}}")
            word = form.format(group, file.stem)
            rows.append(Tried(word, line(*MLP, *BASE, word, *extra), key in SEVERAL))
    rows += [Tried(name, line(*MLP, *BASE, *words), name in SEVERAL) for name, words in SETTINGS.items()]
    return rows
