"""Random combinations of methods, layouts and schedules, from a seed; what each does when it is trained, broken off and gone on with."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from random import Random

import yaml
from layouts import LAYOUTS, Arrangement
from methods import BASE, CONF, LEFT_OUT, MLP, SCENES, TEXT, TRANSFORMER, line
from rank_pool import Outcome, Pool
from short_runs import broken_off, comparable, result

#: 4 steps over an epoch's border, saved and evaluated after 2.
SHORT = ("train.duration=4step", "eval.every=2step", "checkpoint.every=2step")

WIDE = ("model=wide_resnet", "model.depth=10", "model.width_factor=1")
SEED = ("model=small_cnn", "model.channels=[8,16]", "model.hidden=16")
MODELS = (MLP, MLP, WIDE, WIDE, TRANSFORMER, SEED)

ARRANGEMENTS = (
    *(Arrangement("one process", 1),) * 3,
    *LAYOUTS[:2],
    *LAYOUTS[:-1],
    Arrangement("pp 2 × dp 2", 4, ("parallel=pp", "parallel.pp=2", "parallel.replicate=2")),
    Arrangement("pp 2 × tp 2", 4, ("parallel=pp", "parallel.pp=2", "parallel.tp=2")),
    Arrangement("pp interleaved", 2, ("parallel=pp", "parallel.schedule=interleaved", "parallel.stages_per_rank=2")),
    Arrangement("ddp 3", 3, ("parallel=ddp",)),
    Arrangement("ddp 2 bf16", 2, ("parallel=ddp", "parallel.grad_compression=bf16")),
)

#: Knobs without which a choice has no effect in so short a run, or cannot be.
KNOBS: dict[str, tuple[str, ...]] = {
    "average.swa": ("average.swa.start_fraction=0.3", "average.swa.every=1step"),
    "reg.dropout": ("reg.dropout.before_modules='*'",),
    "norm.ghost": ("norm.virtual_batch_size=4",),
    "quant.qat": ("quant.freeze_batch_norm=60%", "quant.freeze_observers=80%"),
    "sched.inverse_sqrt": ("sched.timescale=1step",),
    "sched.exponential": ("sched.step_size=1step",),
    "prune.magnitude": ("prune.until=3step", "prune.cuts=2"),
    "distill.fitnet": ("distill.layers=[layers.1]",),
    "distill.attention_transfer": ("distill.layers=[stages.1]",),
}

#: Methods that name modules of one network.
_OF_NETWORK = {"fitnet": MLP, "attention_transfer": WIDE}

#: Settings besides methods; each run has at most two.
SETTINGS: tuple[tuple[str, ...], ...] = (
    ("train.micro_batch_size=8",),
    ("train.micro_batch_size=5",),
    ("train.activation_checkpointing=full",),
    ("train.activation_checkpointing=selective",),
    ("data.pipeline=streaming", "data.num_workers=0"),
    ("augment.flip.probability=0.5",),
    ("data.mix_block_size=4",),
    ("eval.metric=loss",),
    ("train.channels_last=on",),
    ("optim.layer_decay=0.8",),
    ("optim.no_weight_decay=['*.weight']", "optim.weight_decay=0.01"),
    ("sched.warmup=1step",),
    ("sched.applies_to=[lr,momentum]",),
    ("sched.applies_to=[lr,drop_rate]",),
    ("sched.applies_to=[lr,weight_decay]",),
)

#: A part of the runs has another task than classes of digits: numbers, labels or masks of scenes, or the next token.
UNET = ("model=unet", "model.width=4", "model.depth=2")
TASKS: dict[str, tuple[str, ...]] = {
    "classification": (),
    "regression": ("task=regression", *SCENES),
    "multilabel": ("task=multilabel", *SCENES),
    "segmentation": ("task=segmentation", *SCENES),
    "language_model": TEXT,
}

#: A quarter of the runs draw one of these, where their schedule can; the batch may rise only where it alone is scheduled.
BATCH_SIZES: tuple[tuple[str, ...], ...] = (
    ("sched.applies_to=batch_size",),
    ("sched.applies_to=[lr,batch_size]",),
    ("sched.applies_to=batch_size", "sched.gamma=1.25"),
    ("sched.applies_to=batch_size", "sched.end_factor=1.5"),
)

#: What a message names a setting by.
_SETTING = re.compile(
    r"\b(?:task|train|data|eval|parallel|norm|optim|sched|adapt|augment|reg|average|monitor|precision|distill|quant|prune|federated|model|launch)\b(?:[.=][\w.=\[]+)?"
)


@dataclass(frozen=True)
class Combination:
    """A run of `ranks` ranks as it is typed. `teacher`: the network that its teacher is, where it has one."""

    number: int
    ranks: int
    overrides: tuple[str, ...]
    teacher: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = [word for word in self.overrides if word not in (*BASE, *SHORT)]
        return f"{self.number}: {self.ranks} ranks, {' '.join(words)}"


@dataclass(frozen=True)
class Found:
    """`kind` is trained, refused, or failed; `note` the message."""

    kind: str
    note: str = ""


def combination(seed: int, number: int) -> Combination:
    """The combination of this number: the same for all counts."""
    draw = Random(f"{seed}/{number}")
    model = draw.choice(MODELS)
    task = Random(f"{seed}/{number}/task").choices(list(TASKS), (6, 1, 1, 1, 1))[0]
    model = {"segmentation": UNET, "language_model": TEXT}.get(task, model)
    layout = draw.choice(ARRANGEMENTS)
    words = [*model, *TASKS[task], f"train.max_examples={draw.choice((72, 64))}"]
    if model in (WIDE, UNET):
        words += _chosen("norm", draw.choice(_names("norm")))
    words += _chosen("sched", draw.choice(_names("sched")))
    optim = draw.choice(_names("optim"))
    words += [f"optim={optim}", f"optim.lr={0.01 if optim in ('sgd', 'nesterov', 'muon', 'lars') else 0.001}"]
    for group, weights in (("augment", (4, 4, 2)), ("reg", (4, 4, 2)), ("average", (6, 4)), ("monitor", (5, 3, 2))):
        known = [name for name in _names(group) if name not in ("crop", "flip")]
        names = draw.sample(known, draw.choices(range(len(weights)), weights)[0])
        names = ["crop", "flip", *names] if group == "augment" else names
        if group == "augment" and model is TEXT:
            names = []
        words.append(f"{group}=[{','.join(names)}]")
        words += [word for name in names for word in KNOBS.get(f"{group}.{name}", ())]
    words.append(f"precision={draw.choices(('fp32', 'bf16', 'auto', 'fp16'), (30, 7, 2, 1))[0]}")
    method = draw.choices(("none", "distill", "quant"), (11, 6, 3))[0]
    teacher: tuple[str, ...] = ()
    if method == "distill":
        other = {"none", *(name for name, network in _OF_NETWORK.items() if network is not model)}
        name = draw.choice([name for name in _names("distill") if name not in other])
        words += _chosen("distill", name)
        if "???" in (CONF / "distill" / f"{name}.yaml").read_text(encoding="utf-8"):
            teacher = WIDE if name == "attention_transfer" else model if model in (UNET, TEXT) else MLP
            teacher = (*teacher, *TASKS[task])
            words.append("distill.teacher={teacher}")
    elif method == "quant":
        words += _chosen("quant", draw.choices(("qat", "float8_training"), (7, 1))[0])
    if Random(f"{seed}/{number}/adapt").random() < 0.1:
        words += ["adapt=lora", "adapt.rank=2"]
    words += _draw_pruning(Random(f"{seed}/{number}/prune"))
    words += layout.overrides
    for setting in draw.sample(SETTINGS, draw.choices((0, 1, 2), (4, 3, 2))[0]):
        words += setting if _known(setting[0], words) else ()
    if draw.random() < 0.25:
        words += [word for word in draw.choice(BATCH_SIZES) if _known(word, words)]
    return Combination(number, layout.ranks, line(*BASE, *SHORT, *words), teacher)


def _draw_pruning(draw: Random) -> list[str]:
    """For a fifth of the runs, a choice of `prune` that acts after the first or second step."""
    if draw.random() >= 0.2:
        return []
    name = draw.choice([name for name in _names("prune") if name != "none"])
    words = _chosen("prune", name)
    if name == "structured":
        words += [f"prune.round_to={draw.choice((1, 2, 4))}", f"prune.criterion={draw.choice(('magnitude', 'taylor'))}"]
        words += ["prune.ratio=0.3"]
    return [*words, f"prune.at={draw.choice((1, 2))}step"]


def _known(word: str, words: list[str]) -> bool:
    """Whether the chosen schedule has the knob of `word`; other groups have theirs in every choice."""
    knob = word.partition("=")[0].partition("sched.")[2]
    chosen = next(word.partition("=")[2] for word in words if word.startswith("sched="))
    own, common = ((CONF / "sched" / f"{name}.yaml").read_text(encoding="utf-8") for name in (chosen, "constant"))
    return not knob or f"\n{knob}:" in (own + common if "- constant" in own else own)


def _names(group: str) -> list[str]:
    names = sorted({file.stem for file in (CONF / group).glob("*.yaml")} - {"custom"})  # code of a user's own
    return names if group != "quant" else [name for name in names if f"quant.{name}" not in LEFT_OUT]


def _chosen(group: str, name: str) -> list[str]:
    return [f"{group}={name}", *KNOBS.get(f"{group}.{name}", ())]


class Trial:
    """Trains combinations in `folder`, each run within `timeout_s`; the teachers are trained once."""

    def __init__(self, pool: Pool, folder: Path, timeout_s: float = 180) -> None:
        self._pool = pool
        self._folder = folder
        self._timeout_s = timeout_s
        self._teachers: dict[tuple[str, ...], Path] = {}

    def of(self, tried: Combination) -> Found:
        """What the combination does: trained means finite, as asked for, and gone on with bit for bit from its second step."""
        run, again = self._folder / str(tried.number), self._folder / f"{tried.number}-resumed"
        overrides = [word.replace("{teacher}", str(self._teacher(tried.teacher))) for word in tried.overrides]
        outcome = self._pool.train(tried.ranks, overrides, run, timeout_s=self._timeout_s)
        try:
            if outcome.error:
                return _refused(outcome, run)
            if wrong := _not_as_asked(run, tried) or self._differs(tried, overrides, run, again):
                return Found("failed", wrong)
            return Found("trained")
        finally:
            for path in (run, again):
                shutil.rmtree(path, ignore_errors=True)

    def _differs(self, tried: Combination, overrides: list[str], run: Path, again: Path) -> str:
        """How the run that is gone on with from its second step differs from the whole one."""
        if not (run / "checkpoints" / "step-2").is_dir():
            return "no checkpoint after 2 steps"
        broken_off(run, again, 2)
        outcome = self._pool.train(tried.ranks, overrides, again, timeout_s=self._timeout_s)
        if outcome.error:
            return f"resumed: {outcome.error}"
        if comparable(again) != comparable(run):
            return "resumed: other rows"
        if result(again)["digest"] != result(run)["digest"] or _saved(again) != _saved(run):
            return "resumed: other weights or state"
        return ""

    def _teacher(self, model: tuple[str, ...]) -> Path:
        if not model:
            return Path()
        if model not in self._teachers:
            run = self._folder / f"teacher-{len(self._teachers)}"
            outcome = self._pool.train(1, line(*BASE, *SHORT, *model, "seed=1"), run, self._timeout_s)
            assert not outcome.error, outcome.error
            self._teachers[model] = run
        return self._teachers[model]


def _refused(outcome: Outcome, run: Path) -> Found:
    """A refusal is one where nothing was begun, and its message names what does not go together."""
    if outcome.exit_code not in (2, 3):
        return Found("failed", outcome.error)
    if (run / "checkpoints").is_dir() and (run / "config.yaml").is_file():
        return Found("failed", f"refused after the run was begun: {outcome.error}")
    if len(set(_SETTING.findall(outcome.error))) + outcome.error.count("the layout (") < 2:
        return Found("failed", f"refused without naming two settings: {outcome.error}")
    return Found("refused", outcome.error)


def _not_as_asked(run: Path, tried: Combination) -> str:
    """What the run did otherwise than it was asked to; a loss that is not finite."""
    losses = [row["loss"] for row in comparable(run) if "loss" in row]
    if not losses or not all(math.isfinite(loss) for loss in losses):
        return f"losses {losses}"
    resolved = yaml.safe_load((run / "config.yaml").read_text())
    plan = json.loads((run / "plan.json").read_text())
    asked = dict(word.split("=", 1) for word in tried.overrides)
    for group in ("norm", "sched", "optim", "distill", "quant", "prune", "precision"):
        if group in asked and resolved["choices"][group] != asked[group]:
            return f"{group}={resolved['choices'][group]} in the place of {asked[group]}"
    for group in ("augment", "reg", "average", "monitor"):
        if group in asked and sorted(resolved[group]) != sorted(
            name for name in asked[group].strip("[]").split(",") if name
        ):
            return f"{group}={sorted(resolved[group])} in the place of {asked[group]}"
    if plan["ranks"] != tried.ranks:
        return f"{plan['ranks']} ranks in the place of {tried.ranks}"
    return "" if result(run)["steps"] == 4 or "early_stopping" in asked["monitor"] else f"{result(run)['steps']} steps"


def _saved(run: Path) -> dict[str, object]:
    """The digests of the tensors of the last checkpoint: weights, optimizer, methods' state, of every rank."""
    last = (run / "checkpoints" / "LAST").read_text().strip()
    files: dict[str, object] = json.loads((run / "checkpoints" / last / "manifest.json").read_text())["files"]
    return files
