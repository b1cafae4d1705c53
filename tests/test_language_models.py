"""Language models compute the same on every layout, with every part, and after a resume."""

from __future__ import annotations

from pathlib import Path

import pytest
from rank_pool import Pool
from short_runs import broken_off, comparable, result
from small_texts import RUN, write_texts
from test_tasks import assert_equal_rows

import dnntrain

MODELS: dict[str, tuple[str, ...]] = {
    "adamw": ("optim=adamw",),
    "muon": ("optim=muon", "optim.lr=0.01"),
    "isolated": (
        "data.isolate_documents=true",
        "model.num_kv_heads=1",
        "data.tokenizer=bpe",
        "data.vocabulary_size=300",
    ),
    "tied": ("model.tied_head=true", "model.mlp=swiglu", "model.softcap=5", "model.norm=layer", "data.tokenizer=char"),
}

LAYOUTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "ddp 3": (3, ("parallel=ddp",)),
    "fsdp 2": (2, ("parallel=fsdp",)),
    "tp 2": (2, ("parallel=tp",)),
    "pp 2": (2, ("parallel=pp",)),
    "fsdp 2 × tp 2": (4, ("parallel=fsdp", "parallel.shard=2", "parallel.tp=2")),
    "accumulation": (1, ("train.micro_batch_size=5", "train.activation_checkpointing=full")),
}

#: The layouts of each model: together, every part meets every kind of layout.
TRIED: dict[str, tuple[str, ...]] = {
    "adamw": ("ddp 3", "pp 2"),
    "muon": ("fsdp 2", "tp 2", "pp 2"),
    "isolated": ("ddp 3", "tp 2", "pp 2", "accumulation"),
    "tied": ("fsdp 2", "pp 2", "fsdp 2 × tp 2"),
}

#: A mask of documents and a tied head belong to several stages; one head of keys cannot be divided.
UNSUPPORTED = {("isolated", "tp 2"), ("isolated", "pp 2"), ("tied", "pp 2")}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MODELS)
def test_a_language_model_computes_the_same_on_every_layout_and_after_a_resume(
    name: str, pool: Pool, tmp_path: Path
) -> None:
    words = [*RUN, f"data.path={write_texts(tmp_path / 'texts')}", *MODELS[name]]
    whole = tmp_path / "one"
    outcome = pool.train(1, words, whole)
    assert not outcome.error, outcome.error
    for layout in TRIED[name]:
        ranks, more = LAYOUTS[layout]
        run = tmp_path / layout.replace(" ", "-")
        outcome = pool.train(ranks, [*words, *more], run)
        if (name, layout) in UNSUPPORTED:
            assert outcome.exit_code == 2, (layout, outcome)
            continue
        assert not outcome.error, (layout, outcome.error)
        assert_equal_rows(comparable(run), comparable(whole))
    again = tmp_path / "again"
    broken_off(whole, again, 5)
    outcome = pool.train(1, words, again)
    assert not outcome.error, outcome.error
    assert comparable(again) == comparable(whole)
    assert result(again)["digest"] == result(whole)["digest"]


@pytest.mark.slow
def test_a_student_learns_from_the_logits_of_a_teacher_in_any_micro_batches(tmp_path: Path) -> None:
    words = [*RUN, f"data.path={write_texts(tmp_path / 'texts')}"]
    dnntrain.train(*words, "seed=1", f"run_dir={tmp_path / 'teacher'}", display="quiet")
    student = [word for word in words if not word.startswith("model.embed_dim")]
    student += ["model.embed_dim=8", "distill=kd", f"distill.teacher={tmp_path / 'teacher'}"]
    dnntrain.train(*student, f"run_dir={tmp_path / 'whole'}", display="quiet")
    dnntrain.train(*student, "train.micro_batch_size=5", f"run_dir={tmp_path / 'micro'}", display="quiet")
    assert_equal_rows(comparable(tmp_path / "micro"), comparable(tmp_path / "whole"))
