"""data=tokens and `dnntrain tokenize`: the windows of data=text out of files, and damaged folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_texts import write_texts

from dnntrain.choices.data.text import TextFiles
from dnntrain.choices.data.tokens import TokenFiles
from dnntrain.cli.main import main
from dnntrain.errors import ConfigError, DataError


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe"])
def test_the_folder_has_the_windows_of_the_text(
    tokenizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, folder = write_texts(tmp_path / "texts", 60), tmp_path / "tokens"
    words = ["tokenize", str(texts), "--path", str(folder), "--tokenizer", tokenizer, "--json", "-q"]
    assert main([*words, "--val-fraction", "0.2", "--test-fraction", "0.2"]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == 60
    expected = TextFiles(path=str(texts), context=16, tokenizer=tokenizer, val_fraction=0.2, test_fraction=0.2).build()  # type: ignore[call-arg, arg-type]
    dataset = TokenFiles(context=16, path=str(folder)).build()
    assert dataset.inputs == expected.inputs
    assert (dataset.val_index == expected.val_index).all()
    for source, other in ((dataset.train, expected.train), (dataset.test, expected.test)):
        index = np.arange(len(other))
        assert len(source) == len(other) > 0
        for values, others in zip(source.gather(index), other.gather(index), strict=True):
            assert (values == others).all()
        assert source.describe(2) == other.describe(2)
    assert isinstance(dataset.train.texts[0].tokens, np.memmap)


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data=tokens needs a folder"):
        TokenFiles().check_files()
    with pytest.raises(DataError, match=r"tokens.json does not exist"):
        TokenFiles(path=str(tmp_path)).check_files()
    texts, folder = write_texts(tmp_path / "texts", 8), tmp_path / "tokens"
    assert main(["tokenize", str(texts), "--path", str(folder), "-q"]) == 0
    assert main(["tokenize", str(texts), "--path", str(folder), "-q"]) == 2  # it has files
    assert main(["tokenize", str(texts), "-q"]) == 2
    assert main(["tokenize", str(texts), "--path", str(tmp_path / "b"), "--vocabulary-size", "300", "-q"]) == 2
    with (folder / "train.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="its size is not that"):
        TokenFiles(path=str(folder)).build()
