"""Read the tokens of a trained model from the config.json beside its weights."""

from __future__ import annotations

from pathlib import Path

from dnntrain.errors import ConfigError
from dnntrain.protocols import Vocabulary
from dnntrain.utils.files import read_bytes
from dnntrain.utils.json_files import parse_json


def find_vocabulary(path: Path) -> Vocabulary | None:
    """Return the vocabulary of a run, an export, or a file of weights; None if nothing states one."""
    from dnntrain.checkpoint.model_card import parse_model_spec

    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return None
    try:
        config = parse_json(read_bytes(file))
        return parse_model_spec(config).inputs.vocabulary
    except (ValueError, TypeError, AttributeError, KeyError):
        return None


def read_vocabulary(path: Path) -> Vocabulary:
    """Return the vocabulary of a run or an export. Raises ConfigError if it has none."""
    if not path.exists():
        raise ConfigError(f"data.vocabulary_from={path} does not exist", "name a run directory or an export")
    vocabulary = find_vocabulary(path)
    if vocabulary is None:
        raise ConfigError(
            f"data.vocabulary_from={path} has no tokens", "name a run of task=language_model, or leave it out"
        )
    return vocabulary
