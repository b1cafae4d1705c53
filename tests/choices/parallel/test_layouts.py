"""Every layout trains the run of one process: 20 steps in float32 with keyed augmentation and a last batch that does not divide."""

from __future__ import annotations

from pathlib import Path

import pytest
from methods import line
from rank_pool import Pool
from short_runs import broken_off, comparable, result

#: EMA, clipping, label smoothing, mixup, plateau and keyed crops at once; 100 examples in batches of 32, so that the last has 4.
MIX = (
    "train.max_examples=100",
    "train.batch_size=32",
    "train.duration=20step",
    "reg=[label_smoothing,grad_clip]",
    "reg.grad_clip.max=0.5",
    "log.every=1step",
    "log.report=false",
    "eval.every=5step",
    "eval.batch_size=64",
    "checkpoint.every=10step",
    "checkpoint.keep_last=9",
    "precision=fp32",
    "augment.crop.padding=1",
    "augment=[crop,flip,mixup]",
    "average=[ema]",
    "sched=plateau",
    "sched.patience=1",
    "optim.lr=2e-3",
)
TRANSFORMER = ("model=vit_tiny", "model.embed_dim=32", "model.depth=4", "model.num_heads=2", "model.patch_size=2")
#: Sync batch norm: a network shallow enough that rounding does not grow, and batches that every rank has examples of.
NORMED = (
    "model=wide_resnet",
    "model.depth=10",
    "model.width_factor=1",
    "norm=sync",
    "train.max_examples=104",
    "optim=sgd",
    "optim.lr=5e-3",
)

#: Optimizers that look at a whole weight, over convolutions that layouts cut by output and by input channels.
CONVOLUTIONS = ("model=small_cnn", "model.channels=[8,16]", "model.hidden=16")
WHOLE_WEIGHTS = {"muon": "optim.lr=0.02", "lamb": "optim.lr=5e-3", "lars": "optim.lr=1"}

LAYOUTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "ddp2": (2, ("parallel=ddp",)),
    "ddp4": (4, ("parallel=ddp",)),
    "fsdp2": (2, ("parallel=fsdp",)),
    "hsdp2x2": (4, ("parallel=hsdp",)),
    "tp2": (2, ("parallel=tp",)),
    "fsdp2xtp2": (4, ("parallel=fsdp", "parallel.shard=2", "parallel.tp=2")),
    "ddp2xtp2": (4, ("parallel=ddp", "parallel.replicate=2", "parallel.tp=2")),
    "ddp2xpp2": (4, ("parallel=ddp", "parallel.replicate=2", "parallel.pp=2")),
    "fsdp2xpp2": (4, ("parallel=fsdp", "parallel.shard=2", "parallel.pp=2")),
    "tp2xpp2": (4, ("parallel=tp", "parallel.tp=2", "parallel.pp=2")),
    "pp2-gpipe": (2, ("parallel=pp", "parallel.schedule=gpipe")),
    "pp2-1f1b": (2, ("parallel=pp",)),
    "pp2-interleaved": (2, ("parallel=pp", "parallel.schedule=interleaved", "parallel.stages_per_rank=2")),
    "accumulate4": (1, ("train.micro_batch_size=8",)),
    "ddp2-accumulate2": (2, ("parallel=ddp", "train.micro_batch_size=8")),
    "fsdp2-recomputed": (2, ("parallel=fsdp", "train.activation_checkpointing=full")),
    "fsdp1": (1, ("parallel=fsdp", "launch.nproc=1")),
}

#: Four stages on two ranks; with two data ranks each has 16 examples of a step, in micro-batches of 4: mixup's blocks are no larger.
INTERLEAVED = ("parallel.pp=2", "parallel.schedule=interleaved", "parallel.stages_per_rank=2", "data.mix_block_size=4")
PRODUCTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "one": (1, ("data.mix_block_size=4",)),
    "ddp2xpp2": (4, ("parallel=ddp", "parallel.replicate=2", *INTERLEAVED)),
    "fsdp2xpp2": (4, ("parallel=fsdp", "parallel.shard=2", *INTERLEAVED)),
    "tp2xpp2": (4, ("parallel=tp", "parallel.tp=2", *INTERLEAVED)),
}

#: What one of each kind shows in the quick run of the tests.
QUICK = {"ddp2", "fsdp2", "tp2", "pp2-1f1b"}

#: (trained for 10 steps under, gone on with under); "one" is one process.
CHANGES = (
    ("one", "ddp2"),
    ("ddp2", "one"),
    ("ddp2", "fsdp2"),
    ("fsdp2", "tp2"),
    ("tp2", "fsdp2xtp2"),
    ("fsdp2xtp2", "pp2-1f1b"),
    ("pp2-1f1b", "one"),
    ("one", "fsdp2xtp2"),
    ("pp2-interleaved", "ddp2"),
    ("hsdp2x2", "tp2"),
    ("tp2", "hsdp2x2"),
    ("fsdp2", "one"),
)


@pytest.fixture(scope="module")
def trained(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> object:
    """The folder of a run of (network, layout), made once."""
    folder = tmp_path_factory.mktemp("layouts")

    def run(name: str, network: tuple[str, ...], layout: str) -> Path:
        path = folder / f"{name}-{layout}"
        if not path.exists():
            ranks, words = (PRODUCTS if name == "interleaved" else LAYOUTS).get(layout, (1, ()))
            outcome = pool.train(ranks, line(*MIX, *network, *words), path)
            assert not outcome.error, outcome.error
        return path

    return run


def assert_same(path: Path, reference: Path) -> None:
    """Every loss within 1e-5, every accuracy exactly, the same decisions at the same steps."""
    ours, theirs = comparable(path), comparable(reference)
    assert [(row["step"], row["split"]) for row in ours] == [(row["step"], row["split"]) for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        if "loss" in b:
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5), (a["step"], a["split"])
        if "grad_norm" in b:
            # A ReLU whose input is rounded to the other side of zero changes the gradient by more than rounding, and hardly the loss.
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3), a["step"]
        assert a.get("accuracy") == b.get("accuracy"), a["step"]
        assert a.get("lr") == b.get("lr")
    assert result(path)["value"] == result(reference)["value"]


def names() -> list[object]:
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in LAYOUTS]


@pytest.mark.parametrize("layout", names())
def test_a_transformer_trains_as_in_one_process(layout: str, trained: object) -> None:
    assert callable(trained)
    assert_same(trained("vit", TRANSFORMER, layout), trained("vit", TRANSFORMER, "one"))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["ddp2xpp2", "fsdp2xpp2", "tp2xpp2"])
def test_an_interleaved_pipeline_together_with_other_parallelism_trains_as_one_process(
    layout: str, trained: object
) -> None:
    assert callable(trained)
    assert_same(trained("interleaved", TRANSFORMER, layout), trained("interleaved", TRANSFORMER, "one"))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["ddp2", "ddp4", "fsdp2", "hsdp2x2", "tp2", "fsdp2xtp2", "ddp2xtp2"])
def test_a_network_with_batch_norm_trains_as_in_one_process(layout: str, trained: object) -> None:
    assert callable(trained)
    assert_same(trained("normed", NORMED, layout), trained("normed", NORMED, "one"))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["fsdp2", "fsdp2xtp2"])
@pytest.mark.parametrize("optim", WHOLE_WEIGHTS)
def test_an_optimizer_that_looks_at_whole_weights_steps_parts_as_in_one_process(
    optim: str, layout: str, trained: object
) -> None:
    assert callable(trained)
    words = (*CONVOLUTIONS, f"optim={optim}", WHOLE_WEIGHTS[optim])
    assert_same(trained(optim, words, layout), trained(optim, words, "one"))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("fsdp2xtp2", "one"), ("one", "fsdp2")])
def test_muon_goes_on_under_another_layout(
    before: str, after: str, trained: object, pool: Pool, tmp_path: Path
) -> None:
    assert callable(trained)
    words = (*CONVOLUTIONS, "optim=muon", WHOLE_WEIGHTS["muon"])
    run = tmp_path / "run"
    broken_off(trained("muon", words, before), run, 10)
    ranks, layout = LAYOUTS.get(after, (1, ()))
    outcome = pool.train(ranks, line(*MIX, *words, *layout), run)
    assert not outcome.error, outcome.error
    assert_same(run, trained("muon", words, "one"))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_run_goes_on_under_another_layout(
    before: str, after: str, trained: object, pool: Pool, tmp_path: Path
) -> None:
    assert callable(trained)
    whole = trained("vit", TRANSFORMER, "one")
    run = tmp_path / "run"
    broken_off(trained("vit", TRANSFORMER, before), run, 10)
    ranks, words = LAYOUTS.get(after, (1, ()))
    outcome = pool.train(ranks, line(*MIX, *TRANSFORMER, *words), run)
    assert not outcome.error, outcome.error
    assert_same(run, whole)


@pytest.mark.slow
def test_shards_of_an_interleaved_pipeline_go_on_in_one_process(trained: object, pool: Pool, tmp_path: Path) -> None:
    assert callable(trained)
    run = tmp_path / "run"
    broken_off(trained("interleaved", TRANSFORMER, "fsdp2xpp2"), run, 10)
    outcome = pool.train(1, line(*MIX, *TRANSFORMER, *PRODUCTS["one"][1]), run)
    assert not outcome.error, outcome.error
    assert_same(run, trained("interleaved", TRANSFORMER, "one"))


@pytest.mark.slow
def test_stages_of_one_rank_evaluate_without_dropout(pool: Pool, tmp_path: Path) -> None:
    words = (
        "train.max_examples=100",
        "train.duration=4step",
        "train.batch_size=32",
        "eval.every=4step",
        "log.report=false",
    )
    words = (*words, "precision=fp32", "model=small_cnn", "model.dropout=0.5", "optim.lr=1e-9")
    for name, (ranks, layout) in {"one": (1, ()), "pipeline": LAYOUTS["pp2-interleaved"]}.items():
        outcome = pool.train(ranks, line(*words, *layout), tmp_path / name)
        assert not outcome.error, outcome.error
    one, pipeline = (
        next(row for row in comparable(tmp_path / name) if row["split"] == "val") for name in ("one", "pipeline")
    )
    assert pipeline["loss"] == pytest.approx(one["loss"], rel=1e-5)
