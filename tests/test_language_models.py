"""Language models compute the same on every layout, with every part, and after a resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rank_pool import Pool
from short_runs import broken_off, comparable, result, rows
from small_texts import RUN, write_texts
from test_tasks import assert_equal_rows

import dnntrain
from dnntrain.cli.main import main
from dnntrain.errors import ConfigError

MODELS: dict[str, tuple[str, ...]] = {
    "adamw": ("optim=adamw",),
    "muon": ("optim=muon", "optim.lr=0.01"),
    "isolated": (
        "data.isolate_documents=true",
        "model.num_kv_heads=1",
        "data.tokenizer=bpe",
        "data.vocabulary_size=300",
    ),
    # 8 tokens, then 16.
    "lengths": ("sched=linear", "sched.start_factor=0.25", "sched.end_factor=1", "sched.applies_to=[lr,seq_len]"),
    "tied": ("model.tied_head=true", "model.mlp=swiglu", "model.softcap=5", "model.norm=layer", "data.tokenizer=char"),
}

LAYOUTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "ddp 3": (3, ("parallel=ddp",)),
    "fsdp 2": (2, ("parallel=fsdp",)),
    "tp 2": (2, ("parallel=tp",)),
    "pp 2": (2, ("parallel=pp",)),
    "fsdp 2 × tp 2": (4, ("parallel=fsdp", "parallel.shard=2", "parallel.tp=2")),
    "tp 2 in positions": (2, ("parallel=tp", "parallel.sequence=true")),
    "ddp 2 × tp 2 in positions": (
        4,
        ("parallel=ddp", "parallel.replicate=2", "parallel.tp=2", "parallel.sequence=true"),
    ),
    "fsdp 2 × tp 2 in positions": (
        4,
        ("parallel=fsdp", "parallel.shard=2", "parallel.tp=2", "parallel.sequence=true"),
    ),
    "tp 2 in positions × pp 2": (4, ("parallel=tp", "parallel.tp=2", "parallel.pp=2", "parallel.sequence=true")),
    "accumulation": (1, ("train.micro_batch_size=5", "train.activation_checkpointing=full")),
}

#: The layouts of each model: together, every part meets every kind of layout.
TRIED: dict[str, tuple[str, ...]] = {
    "adamw": ("ddp 3", "tp 2", "pp 2", "tp 2 in positions × pp 2"),
    "muon": ("fsdp 2", "tp 2", "pp 2", "ddp 2 × tp 2 in positions"),
    "lengths": ("pp 2", "fsdp 2 × tp 2", "accumulation", "fsdp 2 × tp 2 in positions"),
    "isolated": ("ddp 3", "tp 2", "pp 2", "accumulation"),
    "tied": ("fsdp 2", "pp 2", "fsdp 2 × tp 2", "tp 2 in positions"),
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
@pytest.mark.timeout(600)
def test_shared_positions_drop_the_same_values_and_a_resume_repeats_them(pool: Pool, tmp_path: Path) -> None:
    words = [*RUN, f"data.path={write_texts(tmp_path / 'texts')}", "parallel=tp", "model.dropout=0.2"]
    words += ["model.bias=true", "model.norm=layer", "model.positions=learned", "train.activation_checkpointing=full"]
    runs = [tmp_path / name for name in ("whole", "shared", "again")]
    for run, sequence in zip(runs[:2], ("false", "true"), strict=True):
        outcome = pool.train(2, [*words, f"parallel.sequence={sequence}"], run)
        assert not outcome.error, outcome.error
    assert_equal_rows(comparable(runs[1]), comparable(runs[0]))
    broken_off(runs[1], runs[2], 5)
    outcome = pool.train(2, [*words, "parallel.sequence=true"], runs[2])
    assert not outcome.error, outcome.error
    assert comparable(runs[2]) == comparable(runs[1])
    assert result(runs[2])["digest"] == result(runs[1])["digest"]


@pytest.mark.slow
def test_a_student_learns_from_the_logits_of_a_teacher_in_any_micro_batches(tmp_path: Path) -> None:
    words = [*RUN, f"data.path={write_texts(tmp_path / 'texts')}"]
    dnntrain.train(*words, "seed=1", f"run_dir={tmp_path / 'teacher'}", display="quiet")
    student = [word for word in words if not word.startswith("model.embed_dim")]
    student += ["model.embed_dim=8", "distill=kd", f"distill.teacher={tmp_path / 'teacher'}"]
    dnntrain.train(*student, f"run_dir={tmp_path / 'whole'}", display="quiet")
    dnntrain.train(*student, "train.micro_batch_size=5", f"run_dir={tmp_path / 'micro'}", display="quiet")
    assert_equal_rows(comparable(tmp_path / "micro"), comparable(tmp_path / "whole"))


@pytest.mark.slow
def test_a_text_of_each_evaluation_is_in_the_report_and_follows_from_the_weights(tmp_path: Path) -> None:
    words = [word for word in RUN if not word.startswith(("task.sample_tokens", "log.report"))]
    words += [f"data.path={write_texts(tmp_path / 'texts')}", "task.sample_tokens=12"]
    dnntrain.train(*words, f"run_dir={tmp_path / 'run'}", display="quiet")
    texts = {row["step"]: row["text"] for row in rows(tmp_path / "run") if row["split"] == "sample"}
    assert list(texts) == [10, 20]
    assert all(texts.values())
    page = (tmp_path / "run" / "report.html").read_text()
    assert "A text of the model at each evaluation" in page
    assert "Attention: flash kernel" in page
    again = tmp_path / "again"
    broken_off(tmp_path / "run", again, 5)
    dnntrain.train(*words, f"run_dir={again}", display="quiet")
    assert comparable(again) == comparable(tmp_path / "run")


@pytest.mark.slow
def test_bench_counts_the_tokens_of_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*RUN, f"data.path={write_texts(tmp_path / 'texts')}"]
    dnntrain.train(*words, f"run_dir={tmp_path / 'run'}", display="quiet")
    line = [
        "bench",
        str(tmp_path / "run"),
        "--runtimes",
        "eager_fp32",
        "--batches",
        "2",
        "--rounds",
        "2",
        "--seconds",
        "0.05",
    ]
    assert main([*line, "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)["models"]
    low, median, high = (model["batches"]["2"]["tokens_per_s"][place] for place in (1, 0, 2))
    assert 0 < low <= median <= high


@pytest.mark.slow
def test_weights_are_trained_on_with_their_own_tokens_alone(tmp_path: Path) -> None:
    words = [word for word in RUN if not word.startswith("data.path")]
    first, other = (write_texts(tmp_path / name, count) for name, count in (("first", 24), ("other", 20)))
    (other / "new.txt").write_text("Ümit würfelt.\n" * 20)
    pairs = ["data.tokenizer=bpe", "data.vocabulary_size=300"]
    base = tmp_path / "base"
    dnntrain.train(*words, *pairs, f"data.path={first}", f"run_dir={base}", display="quiet")
    words += [f"data.path={other}", f"init_from={base}"]
    with pytest.raises(ConfigError, match=r"data\.vocabulary_from="):
        dnntrain.plan(*words, *pairs)
    tuned = tmp_path / "tuned"
    dnntrain.train(*words, f"data.vocabulary_from={base}", f"run_dir={tuned}", display="quiet")
    losses = [next(row["loss"] for row in rows(run) if row["split"] == "train") for run in (base, tuned)]
    assert losses[1] < losses[0]
    assert dnntrain.load(tuned).spec.inputs.vocabulary == dnntrain.load(base).spec.inputs.vocabulary
    with pytest.raises(ConfigError, match="has no effect with vocabulary_from"):
        dnntrain.plan(*words, *pairs, f"data.vocabulary_from={base}")
    with pytest.raises(ConfigError, match="does not exist"):
        dnntrain.plan(*words, "data.vocabulary_from=none")


@pytest.mark.slow
def test_heads_and_hidden_units_are_pruned_within_a_run_and_the_rest_generates(tmp_path: Path) -> None:
    words = [word for word in RUN if not word.startswith("model.num_heads")]
    words += [f"data.path={write_texts(tmp_path / 'texts')}", "model.num_heads=4"]
    run = tmp_path / "run"
    dnntrain.train(*words, "prune=structured", "prune.ratio=0.3", f"run_dir={run}", display="quiet")
    (event,) = [row for row in rows(run) if row.get("event") == "pruned"]
    assert "attn.qkv 4" in event["widths"]
    assert "mlp.up" in event["widths"]
    values = [row["bits_per_byte"] for row in rows(run) if row["split"] == "val"]
    assert values[-1] < values[0]
    assert dnntrain.evaluate(run)["bits_per_byte"] == pytest.approx(result(run)["test_bits_per_byte"], rel=1e-5)
    assert main(["generate", str(run), "--prompt", "Ada", "--tokens", "3"]) == 0
