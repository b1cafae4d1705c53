"""`dnntrain tune speed --margin`: settings that change the numbers are kept if pairs of runs exclude a loss."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dnntrain.choices.optim.adamw import AdamW
from dnntrain.choices.optim.sgd import Sgd
from dnntrain.cli.main import main
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.config.saved_config import read_saved_config
from dnntrain.errors import ConfigError, DivergedError
from dnntrain.protocols import MetricInfo
from dnntrain.protocols.speed import SpeedAttempt, SpeedGrade
from dnntrain.prove.pairs import Pair
from dnntrain.run.session import Session, open_session
from dnntrain.tune import accuracy, speed
from dnntrain.tune.accuracy import AccuracyJudge, Judgment, count_least_pairs, judge_loss, split_line
from dnntrain.tune.final_line import FasterLine, choose_final_line, combine_alternatives
from dnntrain.tune.lines import Line
from dnntrain.tune.probe import Probe, ProbeRequest
from dnntrain.tune.speed import SpeedRequest, SpeedResult, raise_throughput
from dnntrain.tune.speed_settings import list_speed_settings
from dnntrain.utils.evidence import EffectInterval, compute_effect_interval
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
    least = {claims: count_least_pairs(0.05 / claims) for claims in (1, 2, 3, 4, 5)}
    assert least == {1: 6, 2: 7, 3: 8, 4: 8, 5: 9}
    for claims, pairs in least.items():
        bounds = [compute_effect_interval([1.0] * count, 0.05 / claims).low for count in (pairs - 1, pairs)]
        assert [math.isfinite(bound) for bound in bounds] == [False, True]


def test_both_sides_share_all_settings_but_those_that_were_found() -> None:
    line = ["model=mlp", "train.batch_size=16", "seed=3", "run_dir=here"]
    new = ["train.batch_size=64"]
    assert split_line(line, new) == (["model=mlp", "seed=3", "run_dir=here"], ["train.batch_size=16"], new)


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
    for attempt in batches:
        assert [words[1] for words in attempt.alternatives] == ["optim.lr_scaling=linear"]


def choose_line(
    monkeypatch: pytest.MonkeyPatch, accurate: Sequence[str], *, has_judge: bool = True, slow: str = ""
) -> tuple[SpeedResult, list[str], list[str]]:
    """Return the result for three lines that were faster, the lines that were measured, and those that were judged."""
    measured, judged = list[str](), list[str]()

    def measure(line: FasterLine) -> Probe:
        measured.append(" ".join(line.words))
        verdict = "not faster" if measured[-1] == slow else "faster"
        return Probe(tuple(line.words), line.grade.value, (2.0, 1.9, 2.1), verdict=verdict)

    def judge(self: AccuracyJudge, words: Sequence[str]) -> Judgment:
        assert self.claims == 4
        judged.append(" ".join(words))
        is_kept = judged[-1] in accurate
        return Judgment(tuple(words), "accuracy", ((0.9, 0.9),), 0.0, (None, None), self.alpha, is_kept, "", "")

    monkeypatch.setattr(AccuracyJudge, "judge", judge)
    faster_lines = [
        FasterLine([["threads"]], SpeedGrade.ROUNDING),
        FasterLine([["threads", "b2", "sqrt"], ["threads", "b2", "linear"]], SpeedGrade.STATISTICAL),
        FasterLine([["threads", "b4", "sqrt"], ["threads", "b4", "linear"]], SpeedGrade.STATISTICAL),
    ]
    result = SpeedResult()
    prepared = AccuracyJudge(Line(), 0.01, MetricInfo("accuracy"), Path(), print) if has_judge else None
    choose_final_line(faster_lines, result, prepared, measure, lambda text: None)
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


def test_with_a_judge_an_earlier_line_takes_the_place_of_one_that_is_not_faster_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert choose_line(monkeypatch, ["threads b2 sqrt"], slow="threads b4 sqrt")[0].words == ["threads", "b2", "sqrt"]
    assert choose_line(monkeypatch, [], slow="threads b4 sqrt", has_judge=False)[0].words == []


def test_a_later_setting_is_tried_with_each_rule() -> None:
    rules = SpeedAttempt(("b=2", "rule=sqrt"), SpeedGrade.STATISTICAL, (("b=2", "rule=linear"),))
    line = FasterLine(combine_alternatives(FasterLine([[]], SpeedGrade.BITWISE), rules), SpeedGrade.STATISTICAL)
    assert line.alternatives == [["b=2", "rule=sqrt"], ["b=2", "rule=linear"]]
    larger = SpeedAttempt(("b=4", "rule=sqrt"), SpeedGrade.STATISTICAL, (("b=4", "rule=linear"),))
    assert combine_alternatives(line, larger) == [["b=4", "rule=sqrt"], ["b=4", "rule=linear"]]
    decode = SpeedAttempt(("decode=fast",), SpeedGrade.STATISTICAL)
    assert combine_alternatives(line, decode) == [[*words, "decode=fast"] for words in line.alternatives]


@pytest.mark.slow
def test_with_a_margin_settings_that_keep_the_numbers_are_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """They remain if those that change the numbers lose accuracy."""
    tried: list[str] = []

    def refuse(request: ProbeRequest, *others: Any) -> Probe:
        tried.append(request.grade.value)
        return Probe(tuple(request.new), request.grade.value, verdict="not faster")

    monkeypatch.setattr(speed, "run_probe", refuse)
    words = [word for word in SMALL if not word.startswith("train.duration")]
    session = open_session(decode_config(compose(words, quiet=True)), World())
    request = SpeedRequest(tuple(words), budget_s=600, allow=SpeedGrade.STATISTICAL, margin=0.01)
    raise_throughput(session, request, lambda text: None)
    assert "statistical" in tried
    assert tried == sorted(tried, key=lambda grade: grade == "statistical")


def test_the_folder_of_a_run_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match="folder of a single run"):
        AccuracyJudge.prepare(Line((*SMALL, f"run_dir={tmp_path}")), 0.01, print)


def test_a_margin_in_percent_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        AccuracyJudge.prepare(Line(SMALL), 1.0, print)
    assert caught.value.hint == "did you mean --margin 0.01?"


def test_without_a_margin_nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _, judged = choose_line(monkeypatch, [], has_judge=False)
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
    judgment = AccuracyJudge.prepare(Line(SMALL), 0.01, texts.append).judge(["train.batch_size=64"])
    assert not judgment.is_kept
    assert len(judgment.values) == 30
    assert "not kept: it may lose more than 1.00 points" in texts[-1]


@pytest.mark.parametrize("side", ["A", "B"])
def test_a_run_that_fails_with_the_settings_ends_their_judgment_only(
    side: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def iterate(comparison: Any, metric: Any, max_pairs: int, show: Any) -> Iterator[Pair]:
        yield Pair(1, (1, 1), (tmp_path, tmp_path), (0.5, 0.5))
        show(2, "A", None)
        show(2, side, None)
        raise DivergedError("the loss is not finite")

    monkeypatch.setattr(accuracy, "iterate_pairs", iterate)
    monkeypatch.chdir(tmp_path)
    judge = AccuracyJudge.prepare(Line(SMALL), 0.01, lambda text: None)
    if side == "A":
        with pytest.raises(DivergedError):
            judge.judge(["train.batch_size=64"])
        return
    judgment = judge.judge(["train.batch_size=64"])
    assert (judgment.is_kept, judgment.reason) == (False, "the loss is not finite")
    assert judgment.values == ((0.5, 0.5),)


@pytest.mark.slow
def test_pairs_of_runs_are_trained_and_used_again(tmp_path: Path) -> None:
    texts: list[str] = []
    line = Line((*SMALL, "seed=7", f"run_dir={tmp_path / 'judged'}"))
    judge = AccuracyJudge.prepare(line, 0.9, texts.append)
    judgment = judge.judge(["train.batch_size=64"])
    assert judgment.is_kept
    assert len(judgment.values) == 6
    assert judgment.interval[0] is not None
    assert judgment.interval[0] > -0.9
    runs = sorted(path.parent for path in (tmp_path / "judged").rglob("result.json"))
    assert [path.parent.name.partition("-")[0] for path in runs].count("line") == 6
    assert {read_saved_config(path)["seed"] for path in runs} == set(range(7, 13))
    assert len(runs) == 12
    times = {path: (path / "result.json").stat().st_mtime_ns for path in runs}
    assert judge.judge(["train.batch_size=64"]).values == judgment.values
    assert {path: (path / "result.json").stat().st_mtime_ns for path in runs} == times
    # Another line in the same folder has runs of its own.
    other = AccuracyJudge.prepare(replace(line, overrides=(*line.overrides, "optim.lr=0.01")), 0.9, texts.append)
    assert other.judge(["train.batch_size=64"]).values != judgment.values


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--margin", "0.01"], "--allow statistical"),
        (["--margin", "0.01", "--allow", "statistical", "--goal", "memory"], "use --goal throughput"),
        (["--margin", "-1", "--allow", "statistical"], "--margin -1: -1 is not a number above 0"),
    ],
)
def test_a_margin_without_effect_is_refused(options: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "speed", *SMALL, *options]) == 2
    assert text in capsys.readouterr().err


def test_the_evidence_of_a_judgment_is_plain_values(monkeypatch: pytest.MonkeyPatch) -> None:
    result, _, _ = choose_line(monkeypatch, ["threads b4 sqrt"])
    assert json.loads(json.dumps(speed.make_evidence(result)))["details"]["judged"][0]["metric"] == "accuracy"
