"""Select the parameters that a method acts on, by their names in the full model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from dnntrain.errors import ConfigError
from dnntrain.protocols import ModelStage, ModelTransform, TrainerHandles

#: Words in the names of parameters that are not weights of a layer, whatever their shape: pos_embed, cls_token,
#: dist_token, rel_pos_h, height_rel, relative_position_bias_table, attention_biases …
_VECTOR_WORDS = frozenset({"bias", "biases", "pos", "position", "rel", "token", "tokens"})

#: Small networks that compute a table of position biases: Swin V2 (also torchvision's), MaxViT, GC ViT.
_POSITION_NETWORK = re.compile(r"(?:^|\.)(?:cpb_mlp|rel_pos\.mlp)\.")


class WeightSelection:
    """The weights of two or more dimensions whose names match `where`.

    `names` are in the order of the layers; `parameters` are by name. The names are read from the
    full model after all transforms, because a rank may hold only a part of it. With
    `decayed_only`, weights that the model does not decay are left out.
    """

    def __init__(self, where: str, key: str, decayed_only: bool = False) -> None:
        self._where, self._key, self._decayed_only = where, key, decayed_only
        self.names: list[str] = []
        self.parameters: dict[str, nn.Parameter] = {}

    @property
    def survey_transform(self) -> ModelTransform:
        """A transform that reads the names and changes nothing."""
        return ModelTransform(ModelStage.QUANTIZE, self._select_names)

    def bind(self, handles: TrainerHandles) -> None:
        parameters = dict(handles.model.named_parameters())
        self.parameters = {
            name: parameters[name] for name in self.names if name in parameters and parameters[name].requires_grad
        }

    def _select_names(self, model: nn.Module) -> nn.Module:
        skipped = find_undecayed_names(model) if self._decayed_only else set()
        weights = [
            name for name, parameter in model.named_parameters() if is_weight(name, parameter) and name not in skipped
        ]
        self.names = [name for name in weights if fnmatchcase(name, self._where)]
        if not self.names:
            raise ConfigError(
                f"{self._key}={self._where} matches no weight of the model; "
                f"its weights are {', '.join(weights[:12]) or 'none'}" + (" …" if len(weights) > 12 else "")
            )
        return model


def is_weight(name: str, parameter: Tensor) -> bool:
    """Return whether a parameter is a matrix or kernel.

    Biases, gains, tokens and position embeddings are not, also if they have several dimensions, as
    a layer scale [channels, 1, 1]. timm and torchvision do not decay the same parameters
    (`no_weight_decay()` of timm's models).
    """
    own_name = name.rpartition(".")[2]
    if parameter.ndim < 2 or _VECTOR_WORDS.intersection(re.findall("[a-z]+", own_name)):
        return False
    return own_name == "weight" or sum(size > 1 for size in parameter.shape) > 1


def find_undecayed_names(model: nn.Module) -> set[str]:
    """Return the names of parameters that their model does not decay, besides its vectors.

    These are the names that its own `no_weight_decay()` returns, a convention of timm, the weights of
    networks that compute position biases, and embeddings that are not the weight of a layer as well.
    """
    names = {name for name, _ in model.named_parameters()}
    undecayed = {name for name in names if _POSITION_NETWORK.search(name)}
    layers = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and id(module.weight) not in layers:
            undecayed.add(f"{name}.weight")
    list_names = getattr(model, "no_weight_decay", None)
    if callable(list_names):
        undecayed |= names.intersection(list_names())
    return undecayed


def get_gradients(parameters: Sequence[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
    """Return (parameter, gradient) for each parameter that has a gradient."""
    return [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
