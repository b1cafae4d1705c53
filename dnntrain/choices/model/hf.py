"""GPT-2- and Llama-like networks from a folder of Hugging Face weights: config.json and safetensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

from torch import nn

from dnntrain.config.fields import Fraction
from dnntrain.errors import ConfigError
from dnntrain.nn.decoder import Decoder, DecoderShape
from dnntrain.nn.hf.folder import HfFolder, check_folder, load_folder, read_folder
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import InputKind, ModelChoice, OutputKind


@dataclass(frozen=True)
class HuggingFace(ModelChoice):
    """The network of `model.gpt` with the sizes and weights of a local folder of transformers.

    The data must have as many tokens as the network. For classes, the last layer is new. Nothing is
    downloaded, and no pickled file is read.
    """

    label_key: ClassVar[str] = "path"
    has_convolutions: ClassVar[bool | None] = False
    has_blocks: ClassVar[bool | None] = True
    input_kinds: ClassVar[frozenset[InputKind]] = frozenset({InputKind.TOKENS})
    output_kinds: ClassVar[frozenset[OutputKind]] = frozenset({OutputKind.TOKENS, OutputKind.VECTOR})

    path: str | None = None  # folder with config.json and model.safetensors, as model.save_pretrained writes it
    pretrained: bool = True  # true: the weights of the folder; false: its sizes alone, newly initialized
    dropout: Fraction = 0.0  # probability of dropping a value after attention and within the perceptron

    def check_pretrained_weights(self, shape: ModelShape) -> None:
        if self.pretrained:
            check_folder(self._read_folder())

    def without_pretrained_weights(self) -> Self:
        return replace(self, pretrained=False)

    def build(self, shape: ModelShape) -> nn.Module:
        folder = self._read_folder()
        sizes = self._fit_sizes(folder, shape)
        make = partial(make_decoder, sizes, folder if self.pretrained else None)
        model = make()
        if self.pretrained:
            model.fresh = make  # type: ignore[assignment]  # keeps the weights when the network is initialized
        return model

    def _read_folder(self) -> HfFolder:
        if self.path is None:
            raise ConfigError("model=hf needs model.path", "name a folder of weights: model.path=gpt2")
        path = Path(self.path).expanduser()
        if not path.is_dir():
            raise ConfigError(
                f"model.path={self.path} is not a folder",
                "copy a network of transformers there: model.save_pretrained(FOLDER)",
            )
        return read_folder(path)

    def _fit_sizes(self, folder: HfFolder, shape: ModelShape) -> DecoderShape:
        """Return the sizes of the network for these data. Raises ConfigError if they do not fit."""
        sizes = folder.shape
        if shape.vocabulary != sizes.vocabulary:
            raise ConfigError(
                f"the data have {shape.vocabulary} tokens, and the network of model.path={self.path} reads "
                f"{sizes.vocabulary}",
                "choose the tokenizer that the network was trained with",
            )
        if shape.channels > sizes.context:
            raise ConfigError(
                f"data.context={shape.channels} is longer than the {sizes.context} tokens that the network reads",
                f"use data.context={sizes.context}",
            )
        return replace(
            sizes,
            outputs=shape.num_classes,
            per_token=shape.per_token,
            separator=shape.separator,
            dropout=self.dropout,
        )


def make_decoder(sizes: DecoderShape, folder: HfFolder | None) -> Decoder:
    """Return a decoder of these sizes, with the weights of a folder or without."""
    model = Decoder(sizes)
    if folder is not None:
        load_folder(folder, model)
    return model
