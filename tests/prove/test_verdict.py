"""Verdicts on sequences of differences."""

import numpy as np
import pytest

from dnntrain.errors import ConfigError
from dnntrain.prove.modes import choose_mode
from dnntrain.prove.verdict import Rules, foresee_pairs, judge_differences


def _noise(number: int, mean: float = 0.0, scale: float = 1.0, seed: int = 0) -> list[float]:
    return (np.random.default_rng(seed).standard_normal(number) * scale + mean).tolist()


def test_a_clear_gain_is_better_and_with_the_other_sign_worse():
    differences = _noise(10, 3.0)
    assert judge_differences(differences, Rules(sign=1.0)).verdict == "better"
    assert judge_differences(differences, Rules(sign=-1.0)).verdict == "worse"


def test_a_decision_is_not_revoked_by_later_pairs():
    differences = [1.0] * 6 + [-1.0] * 20
    verdict = judge_differences(differences, Rules())
    assert verdict.verdict == "better"
    assert verdict.e_value >= 20 > verdict.e_values[-1]


def test_small_differences_are_equivalent_only_with_a_margin():
    differences = _noise(20, 0.0, 1e-4, seed=1)
    assert judge_differences(differences, Rules(margin=0.002)).verdict == "equivalent"
    assert judge_differences(differences, Rules(margin=None)).verdict == "undecided"


def test_equal_runs_are_equivalent():
    assert judge_differences([0.0] * 12, Rules(margin=0.002)).verdict == "equivalent"


def test_an_undecided_verdict_foresees_the_pairs_that_it_needs():
    verdict = judge_differences([0.47, 0.78, 0.34, 0.44, 0.67], Rules())
    assert verdict.verdict == "undecided"
    assert verdict.pairs_needed == 6
    assert not verdict.is_futile


@pytest.mark.slow
def test_noise_is_hardly_ever_called_an_effect():
    verdicts = [judge_differences(_noise(20, seed=seed), Rules(max_pairs=20)).verdict for seed in range(30)]
    assert verdicts.count("better") + verdicts.count("worse") <= 4  # 5 % of 30 are 1.5


def test_differences_that_cancel_are_futile():
    verdict = judge_differences([1.0, -1.0] * 6, Rules(max_pairs=14))
    assert verdict.verdict == "undecided"
    assert verdict.is_futile
    assert verdict.is_final


def test_what_is_foreseen_is_deterministic():
    differences = _noise(8, 0.5)
    assert foresee_pairs(differences, Rules()) == foresee_pairs(differences, Rules())


@pytest.mark.parametrize("differences", [[], [0.3]])
def test_too_few_pairs_are_undecided(differences):
    verdict = judge_differences(differences, Rules())
    assert (verdict.verdict, verdict.pairs_needed, verdict.is_futile) == ("undecided", None, False)


def test_an_undecided_sequence_has_the_evidence_of_its_last_pair():
    """The largest value so far is no e-value: e-BH may not get it."""
    verdict = judge_differences([1.0, 1.0, 1.0, -1.0, -1.0, -1.0], Rules())
    assert verdict.verdict == "undecided"
    assert verdict.e_value == verdict.e_values[-1] < max(verdict.e_values)


def test_the_evidence_of_a_decision_is_that_at_the_decision():
    verdict = judge_differences([1.0] * 9, Rules())
    assert verdict.e_value == verdict.e_values[5] < verdict.e_values[-1]


def test_more_pairs_than_are_foreseen_are_judged():
    differences = [1.0, -1.0] * 202
    assert foresee_pairs(differences, Rules(max_pairs=500)) == (None, 0.0)
    assert judge_differences(differences, Rules()).verdict == "undecided"


def test_one_exit_code_cannot_say_the_verdicts_of_a_sweep():
    with pytest.raises(ConfigError, match="--exit-code has no effect"):
        choose_mode(["sweep", "folder"], {"exit_code"}, [])
    assert choose_mode(["sweep", "folder"], set(), []) == "sweep"
