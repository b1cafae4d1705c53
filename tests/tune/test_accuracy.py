"""`dnntrain tune speed --margin`: settings that change the numbers are kept if pairs of runs exclude a loss."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dnntrain.choices.optim.adamw import AdamW
from dnntrain.choices.optim.sgd import Sgd
from dnntrain.cli.main import main
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.protocols.speed import SpeedGrade
from dnntrain.prove.pairs import Pair
from dnntrain.run.session import Session, open_session
from dnntrain.tune import accuracy, speed
from dnntrain.tune.accuracy import AccuracyJudge, Judgment, count_least_pairs, judge_loss, split_line
from dnntrain.tune.lines import Line
from dnntrain.tune.probe import Probe, ProbeRequest
from dnntrain.tune.speed import FoundLine, SpeedRequest, SpeedResult
from dnntrain.tune.speed_settings import list_speed_settings
from dnntrain.utils.evidence import EffectInterval
from dnntrain.utils.world import World

SMALL = ("data=digits", "model=mlp", "train.max_examples=128", "train.duration=1ep", "train.cpu_threads=1")


@pytest.mark.parametrize(
    ("interval", "sign", "verdict"),
    [
        ((-0.009, 0.02), 1.0, True),  # an accuracy that falls by 0.9 points at most
        ((-0.011, 0.02), 1.0, None),
        ((-0.05, -0.011), 1.0, False),
        ((-0.02, 0.009), -1.0, True),  # a loss function that rises by 0.009 at most
        ((0.011, 0.05), -1.0, False),
        ((float("-inf"), float("inf")), 1.0, None),
    ],
)
def test_a_line_is_kept_if_the_interval_excludes_a_loss_beyond_the_margin(
    interval: tuple[float, float], sign: float, verdict: bool | None
) -> None:
    assert judge_loss([0.0] * 8, EffectInterval(*interval), sign, 0.01) is verdict


def test_a_mean_loss_beyond_the_margin_ends_a_comparison_after_eight_pairs() -> None:
    wide = EffectInterval(-0.1, 0.1)
    assert judge_loss([-0.02] * 7, wide, 1.0, 0.01) is None
    assert judge_loss([-0.02] * 8, wide, 1.0, 0.01) is False


def test_more_claims_need_more_pairs() -> None:
    assert [count_least_pairs(0.05 / claims) for claims in (1, 2, 4)] == [6, 7, 8]


def test_both_sides_share_all_settings_but_those_that_were_found() -> None:
    line = ["model=mlp", "train.batch_size=16", "seed=3", "run_dir=here"]
    assert split_line(line, ["train.batch_size=64"]) == (
        ["model=mlp"],
        ["train.batch_size=16"],
        ["train.batch_size=64"],
    )


def test_the_learning_rate_follows_the_batch_by_the_usual_rule_of_the_optimizer_first() -> None:
    assert AdamW().list_rules_for_batch_size(32) == (
        ("optim.lr_scaling=sqrt", "optim.lr_base_batch_size=32"),
        ("optim.lr_scaling=linear", "optim.lr_base_batch_size=32"),
    )
    assert Sgd().list_rules_for_batch_size(64)[0] == ("optim.lr_scaling=linear", "optim.lr_base_batch_size=64")
    assert AdamW(lr_scaling="linear").list_rules_for_batch_size(32) == ((),)


def open_small(*words: str) -> Session:
    return open_session(decode_config(compose([*SMALL, *words], quiet=True)), World())


def test_larger_batches_are_tried_with_such_rates() -> None:
    batches = [
        setting.make_attempt(value)
        for setting in list_speed_settings(open_small(), SpeedGrade.STATISTICAL)
        if setting.key == "train.batch_size"
        for value in setting.values
    ]
    assert [attempt.text for attempt in batches] == [
        f"train.batch_size={size} optim.lr_scaling=sqrt optim.lr_base_batch_size=32" for size in (64, 128)
    ]
    assert all(len(attempt.others) == 1 and "optim.lr_scaling=linear" in attempt.others[0] for attempt in batches)


def choose_line(
    monkeypatch: pytest.MonkeyPatch, accurate: Sequence[str], margin: float | None = 0.01
) -> tuple[SpeedResult, list[str], list[str]]:
    """Return the result for three lines that were found, the lines that were measured, and those that were judged."""
    measured, judged = list[str](), list[str]()

    def measure(request: ProbeRequest, *others: Any) -> Probe:
        measured.append(" ".join(request.new))
        return Probe(tuple(request.new), request.grade.value, (2.0, 1.9, 2.1), verdict="faster")

    def judge(self: AccuracyJudge, words: Sequence[str]) -> Judgment:
        assert self.claims == 4
        judged.append(" ".join(words))
        return Judgment(tuple(words), "accuracy", ((0.9, 0.9),), 0.0, (None, None), 0.0125, judged[-1] in accurate, "")

    monkeypatch.setattr(speed, "run_probe", measure)
    monkeypatch.setattr(AccuracyJudge, "judge", judge)
    found = [
        FoundLine([["threads"]], SpeedGrade.ROUNDING),
        FoundLine([["threads", "b2", "sqrt"], ["threads", "b2", "linear"]], SpeedGrade.STATISTICAL),
        FoundLine([["threads", "b4", "sqrt"], ["threads", "b4", "linear"]], SpeedGrade.STATISTICAL),
    ]
    result = SpeedResult()
    session: Any = None
    speed._choose_final_line(session, SpeedRequest((), margin=margin), result, found, 1.0, None, lambda text: None)
    return result, measured, judged


def test_the_line_that_keeps_the_accuracy_is_chosen_the_fastest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    result, measured, judged = choose_line(monkeypatch, ["threads b4 linear"])
    assert result.words == ["threads", "b4", "linear"]
    assert judged == ["threads b4 sqrt", "threads b4 linear"]
    assert measured == ["threads b4 sqrt"]
    assert [item["is_kept"] for item in result.details["judged"]] == [False, True]
    assert result.final is not None
    assert result.final.words == ("threads", "b4", "linear")


def test_settings_that_keep_the_numbers_remain_if_no_other_keeps_the_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    result, measured, judged = choose_line(monkeypatch, [])
    assert result.words == ["threads"]
    assert len(judged) == 4
    assert measured == ["threads b4 sqrt", "threads b2 sqrt", "threads"]
    assert result.final is not None
    assert result.final.grade == "rounding"


def test_without_a_margin_nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _, judged = choose_line(monkeypatch, [], margin=None)
    assert result.words == ["threads", "b4", "sqrt"]
    assert judged == []
    assert "judged" not in result.details


def test_the_last_pairs_decide_that_a_line_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a decision after the most pairs, the line counts as worse."""

    def iterate(*arguments: Any) -> Iterator[Pair]:
        for number in range(1, arguments[2] + 1):
            yield Pair(number, (number, number), (tmp_path, tmp_path), (0.5, 0.5 - (-1) ** number * 0.2))

    monkeypatch.setattr(accuracy, "iterate_pairs", iterate)
    monkeypatch.chdir(tmp_path)
    texts: list[str] = []
    judgment = AccuracyJudge(Line(SMALL), 0.01, 1, texts.append).judge(["train.batch_size=64"])
    assert not judgment.is_kept
    assert len(judgment.values) == 30
    assert "not kept: it may lose more than 1.00 points" in texts[-1]


@pytest.mark.slow
def test_pairs_of_runs_are_trained_and_used_again(tmp_path: Path) -> None:
    texts: list[str] = []
    judge = AccuracyJudge(Line((*SMALL, f"run_dir={tmp_path / 'judged'}")), 0.9, 1, texts.append)
    judgment = judge.judge(["train.batch_size=64"])
    assert judgment.is_kept
    assert len(judgment.values) == 6
    assert judgment.interval[0] is not None
    assert judgment.interval[0] > -0.9
    runs = sorted(path.parent for path in (tmp_path / "judged").rglob("result.json"))
    assert [path.parent.name for path in runs].count("line") == 6
    assert len(runs) == 12
    times = {path: (path / "result.json").stat().st_mtime_ns for path in runs}
    assert judge.judge(["train.batch_size=64"]).values == judgment.values
    assert {path: (path / "result.json").stat().st_mtime_ns for path in runs} == times


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--margin", "0.01"], "--allow statistical"),
        (["--margin", "0.01", "--allow", "statistical", "--goal", "memory"], "use --goal throughput"),
        (["--margin", "-1", "--allow", "statistical"], "--margin"),
    ],
)
def test_a_margin_without_effect_is_refused(options: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "speed", *SMALL, *options]) == 2
    assert text in capsys.readouterr().err


def test_the_evidence_of_a_judgment_is_plain_values(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _, _ = choose_line(monkeypatch, ["threads b4 sqrt"])
    assert json.loads(json.dumps(speed.make_evidence(result)))["details"]["judged"][0]["metric"] == "accuracy"
