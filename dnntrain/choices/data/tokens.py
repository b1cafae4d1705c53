"""A folder of tokens that `dnntrain tokenize` wrote: for texts that are larger than memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dnntrain.checkpoint.model_spec import decode_vocabulary
from dnntrain.choices.data._text import ContextData, make_token_inputs
from dnntrain.errors import ConfigError, DataError
from dnntrain.input.source import DataSet, compute_digest
from dnntrain.input.token_files import INDEX_NAME, SPLITS, check_token_folder, map_token_text, read_token_index
from dnntrain.input.token_source import make_token_dataset
from dnntrain.utils.units import pluralize


@dataclass(frozen=True)
class TokenFiles(ContextData):
    """The splits and the tokenizer are those of the folder. Its files are mapped into memory, not read."""

    label_key: ClassVar[str] = "path"
    place_options: ClassVar[tuple[str, ...]] = ("path",)

    path: str | None = None  # folder that `dnntrain tokenize` wrote

    def check_files(self) -> None:
        check_token_folder(self._get_folder())

    def build(self) -> DataSet:
        folder = self._get_folder()
        index = read_token_index(folder)
        try:
            vocabulary = decode_vocabulary(index["vocabulary"])
            train, val, test = (map_token_text(folder, split, index, vocabulary) for split in SPLITS)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / INDEX_NAME} is damaged: {error}", "tokenize the text again") from None
        return make_token_dataset(
            "tokens",
            train,
            val,
            test,
            make_token_inputs(vocabulary, self.context, self.isolate_documents),
            compute_digest(["tokens", repr(vocabulary), *(index["splits"][split]["sha256"] for split in SPLITS)]),
            notes=[f"{pluralize(len(train.tokens), 'training token')} in {folder}"],
        )

    def _get_folder(self) -> Path:
        if self.path is None:
            raise ConfigError("data=tokens needs a folder", "as in data.path=FOLDER, written by dnntrain tokenize")
        return Path(self.path).expanduser()
