"""data=text_folder: documents of classes, padded before their beginning, which no token sees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rank_pool import Pool
from short_runs import comparable, result
from small_texts import make_document
from test_tasks import assert_equal_rows

import dnntrain
from dnntrain.choices.data.text_folder import TextFolder
from dnntrain.choices.model.gpt import Gpt
from dnntrain.cli.main import main
from dnntrain.errors import DataError
from dnntrain.input.document_source import DocumentSource, encode_rows
from dnntrain.input.text_files import find_text_files
from dnntrain.nn.init import initialize_weights
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import Vocabulary

BYTES = Vocabulary("byte", separates=True)
MODEL = ("model=gpt", "model.embed_dim=16", "model.depth=2", "model.num_heads=2", "optim.lr=0.01", "precision=fp32")


def write_reviews(root: Path, count: int = 60) -> Path:
    """Write texts of two classes, of which one has many more exclamation marks."""
    for number in range(count):
        folder = root / ("good" if number % 2 else "bad")
        folder.mkdir(parents=True, exist_ok=True)
        mark = "!" if number % 2 else "."
        (folder / f"{number}.txt").write_text(make_document(number, 1).replace(".", mark * (3 + number % 4)))
    return root


def test_a_document_ends_with_the_last_column_after_the_token_that_begins_it() -> None:
    rows = encode_rows([b"ab", b"abcdef"], 5, BYTES, "here")
    assert rows.tolist() == [[255, 255, 255, 97, 98], [255, 97, 98, 99, 100]]
    with pytest.raises(DataError, match="several documents"):
        encode_rows([b"ab"], 5, Vocabulary("byte"), "here")


def test_no_token_sees_the_padding() -> None:
    short, long = (encode_rows([b"a text"], length, BYTES, "here").astype(np.int64) for length in (8, 20))
    choice = Gpt(embed_dim=16, depth=2, num_heads=2, max_context=20)
    outputs = []
    for rows in (short, long):
        model = choice.build(ModelShape(3, rows.shape[1], vocabulary=256, separator=255))
        initialize_weights(model, 0)
        outputs.append(model.eval()(torch.from_numpy(rows)))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-6)


def test_texts_of_one_class_are_evaluated_and_not_trained(tmp_path: Path) -> None:
    write_reviews(tmp_path, 20)
    shutil.rmtree(tmp_path / "good")
    data = TextFolder(root=str(tmp_path), tokenizer="byte")
    with pytest.raises(DataError, match="one class folder"):
        data.build()
    dataset = data.build_for_evaluation()
    assert dataset.targets.names == ("bad",)
    assert len(dataset.train) + len(dataset.test) == 10


def test_hidden_files_and_runs_are_no_texts(tmp_path: Path) -> None:
    write_reviews(tmp_path, 20)
    texts = TextFolder(str(tmp_path), context=32).build()
    corpus = find_text_files(tmp_path, [".txt"])
    run = tmp_path / "good" / "runs" / "gpt" / "1"
    run.mkdir(parents=True)
    for path in (run / "config.yaml", run / "output.txt", tmp_path / "bad" / ".draft.txt"):
        path.write_text("no text of the data")
    assert TextFolder(str(tmp_path), context=32).build().digest == texts.digest
    assert find_text_files(tmp_path, [".txt"]) == corpus


def test_the_splits_follow_from_the_folders(tmp_path: Path) -> None:
    for part, count in (("train", 20), ("val", 8), ("test", 6)):
        write_reviews(tmp_path / part, count)
    dataset = TextFolder(str(tmp_path), context=32).build()
    assert dataset.targets.names == ("bad", "good")
    assert (len(dataset.train), len(dataset.test)) == (28, 6)
    assert dataset.val_index is not None
    assert dataset.val_index.tolist() == list(range(20, 28))
    tokens, labels = dataset.train.gather(np.array([0, 19]))
    assert labels.tolist() == [0, 1]
    assert bytes(tokens[0][tokens[0] < 255].tolist()) == (tmp_path / "train/bad/0.txt").read_bytes()[:31]


def test_another_vocabulary_reads_the_same_documents(tmp_path: Path) -> None:
    source = TextFolder(str(write_reviews(tmp_path)), context=32).build().train
    assert isinstance(source, DocumentSource)
    again = source.recode(Vocabulary("bpe", merges=((32, 97),), separates=True))
    assert again.rows.max() == 256
    assert np.array_equal(again.labels, source.labels)


def test_folders_that_hold_no_classes_of_texts_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        TextFolder(str(tmp_path / "none")).build()
    with pytest.raises(DataError, match="the folder is empty"):
        TextFolder(str(tmp_path)).build()
    (tmp_path / "loose.txt").write_text("a")
    with pytest.raises(DataError, match="no class folder"):
        TextFolder(str(tmp_path)).build()
    (tmp_path / "loose.txt").unlink()
    (tmp_path / "one").mkdir()
    with pytest.raises(DataError, match="class one has no text"):
        TextFolder(str(tmp_path)).build()
    (tmp_path / "one" / "a.txt").write_text("a")
    with pytest.raises(DataError, match="at least 2"):
        TextFolder(str(tmp_path)).build()
    (tmp_path / "one" / "b.txt").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="not a text file"):
        TextFolder(str(tmp_path)).build()


@pytest.mark.slow
def test_texts_are_classified_on_several_ranks_and_files_from_the_command_line(
    pool: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data=text_folder", f"data.root={write_reviews(tmp_path / 'reviews')}", "data.context=40", *MODEL]
    words += ["train.duration=15ep", "train.batch_size=16", "log.every=5step", "checkpoint.every=15ep"]
    run = tmp_path / "run"
    dnntrain.train(*words, f"run_dir={run}", display="quiet")
    assert result(run)["value"] == 1.0
    assert not pool.train(2, [*words, "parallel=ddp"], tmp_path / "ddp").error
    first_rows = ([row for row in comparable(path) if row["step"] <= 20] for path in (tmp_path / "ddp", run))
    assert_equal_rows(*first_rows)
    assert dnntrain.evaluate(run)["accuracy"] == result(run)["test_accuracy"]
    (tmp_path / "new.txt").write_text("Ada reads a map 3!!!!!\n")
    assert main(["predict", str(run), str(tmp_path / "new.txt"), "--format", "jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["class"] == "good"
    assert main(["export", str(run), "--format", "pt2", "--path", str(tmp_path / "pt2")]) == 0
