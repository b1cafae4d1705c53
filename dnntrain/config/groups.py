"""List the groups of the configuration.

A new method does not change the list, because a choice is found by its files. A new group does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """A folder of choices.

    single   exactly one choice is selected; else a list of choices
    overlay  YAML only, with keys of the whole configuration
    hidden   left out of lists
    """

    name: str
    doc: str
    single: bool = True
    overlay: bool = False
    hidden: bool = False

    @property
    def base(self) -> str:
        """Return the class of dnntrain.protocols to inherit: `NormChoice` for `norm`."""
        return "Task" if self.name == "task" else f"{self.name.capitalize()}Choice"


GROUPS: dict[str, Group] = {
    group.name: group
    for group in (
        Group("task", "the task: targets, loss and metrics"),
        Group("data", "the data set, its validation part and its pipeline"),
        Group("model", "the network"),
        Group("norm", "normalization layers: kept as built, or converted"),
        Group("optim", "the optimizer"),
        Group("sched", "the learning rate over the run"),
        Group("augment", "changes of training examples", single=False),
        Group("reg", "regularization", single=False),
        Group("average", "averages of the weights", single=False),
        Group("adapt", "adapters: the few weights that are trained of a network"),
        Group("quant", "quantization, in training and after"),
        Group("distill", "knowledge distillation from a teacher"),
        Group("prune", "pruning: a smaller network"),
        Group("federated", "federated training: clients that keep their data"),
        Group("monitor", "monitors that watch the run and react", single=False),
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
