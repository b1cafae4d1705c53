"""Parts of a user's own, for runs: a data set, a network, a loss, a metric, an optimizer, a schedule, an image transform."""

import numpy as np
import torch


def make_bars(train: bool = True):
    """Images with a bright bar at one of three heights, and the height of each."""
    random = np.random.default_rng(0 if train else 1)
    labels = random.integers(0, 3, 96 if train else 40)
    images = random.integers(0, 160, (len(labels), 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 60
    return images, labels


class Net(torch.nn.Sequential):
    """A linear network whose weights do not depend on a generator."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        with torch.no_grad():
            self[1].weight.copy_(torch.linspace(-0.1, 0.1, 192).reshape(3, 64))
            self[1].bias.zero_()


def hinge(outputs, targets, margin: float = 1.0):
    right = outputs.gather(1, targets[:, None])
    return (margin - right + outputs).clamp(min=0).sum(1) - margin


def worst_recall(outputs, targets):
    is_right = outputs.argmax(1) == targets
    return min(float(is_right[targets == label].float().mean()) for label in targets.unique())


def posterize(image, generator, bits: int = 4):
    shift = int(torch.randint(0, 9 - bits, (1,), generator=generator))
    return image >> shift << shift


class HeavyBall(torch.optim.Optimizer):
    """v = momentum v + gradient; w = w - lr v."""

    def __init__(self, params, lr, momentum: float = 0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if "velocity" not in state:
                        state["velocity"] = torch.zeros_like(parameter)
                    state["velocity"].mul_(group["momentum"]).add_(parameter.grad)
                    parameter.sub_(state["velocity"], alpha=group["lr"])


def sawtooth(progress: float, teeth: int = 3) -> float:
    return 1 - 0.9 * (progress * teeth % 1)
