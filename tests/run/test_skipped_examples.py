"""The report of unreadable examples is of all ranks, each of which reads a part of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_files import write_images
from rank_pool import Pool


@pytest.mark.slow
def test_the_unreadable_images_of_all_ranks_are_reported(pool: Pool, tmp_path: Path) -> None:
    train, _ = (write_images(tmp_path / name, count=100, size=8) for name in ("train", "test"))
    for path in (train[5], train[105]):
        path.write_bytes(path.read_bytes()[:60])
    line = [
        *("data=image_folder", f"data.root={tmp_path}", "data.image_size=8", "data.on_error=skip"),
        *("data.pipeline=streaming", "data.num_workers=0", "data.val_fraction=0", "reg=[]", "precision=fp32"),
        *("model=mlp", "model.hidden=[8]", "train.duration=1ep", "train.batch_size=50", "log.report=false"),
        "parallel=ddp",
    ]
    outcome = pool.train(2, line, tmp_path / "run")
    assert not outcome.error, outcome.error
    assert "2 unreadable examples were skipped" in (tmp_path / "run" / "log.txt").read_text()
