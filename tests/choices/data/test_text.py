"""data=text: documents, splits that share none, windows, and mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_texts import make_document, write_texts

from dnntrain.choices.data.text import TextFiles
from dnntrain.errors import ConfigError, DataError
from dnntrain.input.text_files import cut_sections, read_documents
from dnntrain.input.token_source import TokenSource, match_vocabulary
from dnntrain.input.tokenizer import decode_tokens


def build(folder: Path, **options: object) -> TextFiles:
    return TextFiles(path=str(folder), **{"context": 16, "val_fraction": 0.2, "test_fraction": 0.2, **options})  # type: ignore[arg-type]


def read_tokens(source: TokenSource) -> bytes:
    pieces = source.vocabulary.list_pieces()
    return b"".join(decode_tokens(pieces, text.tokens) for text in source.texts)


def test_windows_hold_the_text_and_targets_are_the_next_tokens(tmp_path: Path) -> None:
    dataset = build(write_texts(tmp_path / "texts")).build()
    inputs, targets = dataset.train.gather(np.arange(len(dataset.train)))
    assert inputs.dtype == targets.dtype == np.int64
    assert (inputs[:, 1:] == targets[:, :-1]).all()
    first = dataset.train.texts[0].tokens
    assert (inputs[1] == first[16:32]).all()
    assert targets[0, -1] == first[16]
    assert dataset.train.describe(1).endswith("from token 16")


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe"])
def test_each_document_is_in_one_split(tokenizer: str, tmp_path: Path) -> None:
    dataset = build(write_texts(tmp_path / "texts"), tokenizer=tokenizer).build()
    every = sorted(make_document(number) for number in range(24))
    train, val = (text.names for text in dataset.train.texts)
    test = dataset.test.texts[0].names
    assert sorted([*train, *val, *test]) == [f"{number:02}.txt" for number in range(24)]
    assert min(len(val), len(test)) >= 1
    assert read_tokens(dataset.train) + read_tokens(dataset.test) != b""
    assert sum(map(len, (read_tokens(dataset.train), read_tokens(dataset.test)))) == sum(
        len(text.encode()) for text in every
    )
    assert dataset.val_index is not None
    assert len(dataset.val_index) == dataset.train.texts[1].count_windows(16)


def test_a_new_document_moves_no_other(tmp_path: Path) -> None:
    before = build(write_texts(tmp_path / "texts")).build()
    (tmp_path / "texts" / "new.txt").write_text("Something else.\n" * 20)
    after = build(tmp_path / "texts").build()
    assert set(before.test.texts[0].names) <= set(after.test.texts[0].names)
    assert before.digest != after.digest


def test_a_long_document_is_cut_into_sections_at_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    text = "".join(f"Line {number} of the book — the {number}th.\n" for number in range(2000))
    file.write_text(text, encoding="utf-8")
    sections = cut_sections(read_documents([file]))
    assert b"".join(section.data for section in sections).decode() == text
    assert all(section.data.endswith(b"\n") for section in sections)
    assert [section.begins for section in sections] == [True] + [False] * (len(sections) - 1)
    dataset = build(file).build()
    assert dataset.inputs.vocabulary.separator is None
    assert len(dataset.test) > 10
    cut_sections(read_documents([write_long_line(tmp_path)]))  # characters of several bytes are kept whole


def write_long_line(folder: Path) -> Path:
    file = folder / "line.txt"
    file.write_text("é" * 20000, encoding="utf-8")
    for section in cut_sections(read_documents([file])):
        section.data.decode()
    return file


def test_a_separator_divides_a_file_into_documents(tmp_path: Path) -> None:
    file = tmp_path / "all.txt"
    file.write_text("<|end|>".join(make_document(number) for number in range(8)), encoding="utf-8")
    dataset = build(file, separator="<|end|>").build()
    assert sum(len(text.names) for text in (*dataset.train.texts, *dataset.test.texts)) == 8
    assert b"<|end|>" not in read_tokens(dataset.train)


def test_a_text_is_read_in_the_tokens_of_a_model(tmp_path: Path) -> None:
    model_data = build(write_texts(tmp_path / "texts"), tokenizer="char").build()
    other = build(write_texts(tmp_path / "other", 6), tokenizer="byte").build()
    matched = match_vocabulary(other, model_data.inputs)
    assert matched.inputs == model_data.inputs
    assert read_tokens(matched.train) == read_tokens(other.train)
    with pytest.raises(DataError, match="context=8 must be 16"):
        match_vocabulary(build(tmp_path / "other", context=8).build(), model_data.inputs)
    (tmp_path / "other" / "x.txt").write_text("Ωmega\n" * 40, encoding="utf-8")
    with pytest.raises(DataError, match="does not have the characters 'g', 'Ω'"):
        match_vocabulary(build(tmp_path / "other").build(), model_data.inputs)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a file or a folder"):
        TextFiles().check_files()
    with pytest.raises(DataError, match="does not exist"):
        build(tmp_path / "missing").check_files()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file with the suffix"):
        build(tmp_path / "empty").check_files()
    (tmp_path / "empty" / "a.txt").write_text("")
    with pytest.raises(DataError, match="every file is empty"):
        build(tmp_path / "empty").check_files()
    (tmp_path / "empty" / "a.txt").write_text(" \n")
    with pytest.raises(DataError, match="the text is empty"):
        build(tmp_path / "empty").build()
    (tmp_path / "empty" / "a.txt").write_text("Short.")
    with pytest.raises(DataError, match=r"too few for data.context=16"):
        build(tmp_path / "empty").build()
    (tmp_path / "empty" / "a.txt").write_bytes(b"text\0more")
    with pytest.raises(DataError, match=r"byte 4 is 0x00"):
        build(tmp_path / "empty").build()
    (tmp_path / "empty" / "a.txt").write_bytes(b"caf\xe9 text")
    with pytest.raises(DataError, match=r"byte 3 is 0xe9"):
        build(tmp_path / "empty").build()
    with pytest.raises(ValueError, match="has no effect with tokenizer=byte"):
        TextFiles(vocabulary_size=400)
    book = tmp_path / "book.txt"
    book.write_text("One document only.\n" * 200)
    with pytest.raises(ConfigError, match="has no effect, because the text is one document"):
        build(book, isolate_documents=True).build()
