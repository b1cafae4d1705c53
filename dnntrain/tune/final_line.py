"""Choose among lines that are faster: the last one that keeps the accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from dnntrain.protocols.speed import SpeedAttempt, SpeedGrade
from dnntrain.tune.lines import replace_words
from dnntrain.tune.probe import Probe, describe_probe

if TYPE_CHECKING:
    from dnntrain.tune.accuracy import AccuracyJudge
    from dnntrain.tune.speed import Say, SpeedResult


@dataclass(frozen=True)
class FasterLine:
    """Settings that were faster than the best ones before them.

    alternatives  the settings that were measured, and others of the same speed
    """

    alternatives: list[list[str]]
    grade: SpeedGrade

    @property
    def words(self) -> list[str]:
        """The settings that were measured."""
        return self.alternatives[0]


def combine_alternatives(line: FasterLine, attempt: SpeedAttempt) -> list[list[str]]:
    """Return each alternative of a line with each of an attempt, the one to measure first."""
    combined = [
        replace_words(words, new) for words in line.alternatives for new in (attempt.words, *attempt.alternatives)
    ]
    return [list(words) for words in dict.fromkeys(map(tuple, combined))]


def choose_final_line(
    faster_lines: Sequence[FasterLine],
    result: SpeedResult,
    judge: AccuracyJudge | None,
    measure: Callable[[FasterLine], Probe],
    say: Say,
) -> None:
    """Measure the last line once more beside the line as it is, and let the judge weigh its accuracy.

    If it is not faster or loses accuracy, the one before it takes its place. `result` gets the words,
    the last measurement and the judgments.
    """
    if judge is not None:
        lines = [line for line in faster_lines if line.grade is SpeedGrade.STATISTICAL]
        judge = replace(judge, claims=max(1, sum(len(line.alternatives) for line in lines)))
        result.details["judged"] = []
    for line in reversed(faster_lines):
        result.final = measure(line)
        say(f"all together, beside the line as it is: {describe_probe(result.final)}")
        if result.final.verdict == "faster":
            words = _find_accurate_words(line, judge, result.details.get("judged", []))
            if words is not None:
                result.words, result.final = words, replace(result.final, words=tuple(words))
                return
        elif judge is None:
            return
    if any(item["is_kept"] is False for item in result.details.get("judged", [])):
        result.final = None


def _find_accurate_words(
    line: FasterLine, judge: AccuracyJudge | None, judgments: list[dict[str, Any]]
) -> list[str] | None:
    """Return the alternative of a line that keeps the accuracy; None if each may lose more than the margin."""
    if judge is None or line.grade is not SpeedGrade.STATISTICAL:
        return line.words
    for words in line.alternatives:
        judgment = judge.judge(words)
        judgments.append(asdict(judgment))
        if judgment.is_kept:
            return words
    return None
