"""The groups of the configuration. The list grows with groups, not with methods: a choice is found by its files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """A folder of choices.

    `single`: exactly one is chosen; else a list. `overlay`: YAML only, spread over the whole config. `hidden`: left out of lists.
    """

    name: str
    doc: str
    single: bool = True
    overlay: bool = False
    hidden: bool = False

    @property
    def base(self) -> str:
        """The class of dnntrain.protocols that its choices inherit: `NormChoice` for `norm`."""
        return "Task" if self.name == "task" else f"{self.name.capitalize()}Choice"


GROUPS: dict[str, Group] = {
    group.name: group
    for group in (
        Group("task", "what the network learns and is judged by"),
        Group("data", "the data set, its validation part and its pipeline"),
        Group("model", "the network"),
        Group("norm", "normalisation layers: kept as built, or converted"),
        Group("optim", "the optimizer"),
        Group("sched", "the learning rate over the run"),
        Group("augment", "changes of training examples", single=False),
        Group("reg", "regularization", single=False),
        Group("average", "averages of the weights", single=False),
        Group("quant", "quantisation, in training and after"),
        Group("distill", "knowledge distillation from a teacher"),
        Group("prune", "pruning", hidden=True),
        Group("monitor", "what watches the run and reacts", single=False),
        Group("precision", "the number formats of training"),
        Group("parallel", "the layout over processes"),
        Group("launch", "how the processes are started"),
        Group("track", "experiment trackers that also get the metrics", single=False),
        Group("experiment", "complete recipes", overlay=True),
        Group("debug", "short runs for finding faults", overlay=True),
    )
}

SINGLE = tuple(name for name, group in GROUPS.items() if group.single and not group.overlay)
VISIBLE = tuple(name for name, group in GROUPS.items() if not group.hidden)
LISTS = tuple(name for name, group in GROUPS.items() if not group.single)
OVERLAYS = tuple(name for name, group in GROUPS.items() if group.overlay)
