"""The e-processes: their values, their false positives, the interval and e-BH."""

import math

import numpy as np
import pytest

from dnntrain.utils.evidence import (
    E_PROCESSES,
    compute_e_values,
    compute_effect_interval,
    select_by_e_bh,
)

#: Knowledge distillation against training alone, five seeds, in points of accuracy (docs/benchmarks.md).
KD_DIFFERENCES = [0.47, 0.78, 0.34, 0.44, 0.67]


def test_the_symmetric_form_leaves_five_agreeing_pairs_undecided():
    e_values = compute_e_values(KD_DIFFERENCES)
    assert e_values == pytest.approx([1.0, 1.77, 3.18, 6.0, 11.7], rel=0.01)


def test_the_normal_form_is_bolder():
    assert compute_e_values(KD_DIFFERENCES, "normal")[-1] == pytest.approx(39.3, rel=0.01)


@pytest.mark.parametrize("assume", ["symmetric", "normal"])
@pytest.mark.parametrize("factor", [1e-30, -3.0, 1e6])
def test_units_and_directions_do_not_matter(assume, factor):
    scaled = [factor * value for value in KD_DIFFERENCES]
    assert compute_e_values(scaled, assume) == pytest.approx(compute_e_values(KD_DIFFERENCES, assume))


def test_equal_runs_give_no_evidence():
    assert compute_e_values([0.0] * 30) == [1.0] * 30
    assert compute_e_values([], "normal") == []


def _draw_null(kind: str, shape: tuple[int, int]) -> np.ndarray:
    generator = np.random.default_rng(7)
    normal = generator.standard_normal(shape)
    match kind:
        case "normal":
            return normal
        case "two-valued":
            return np.sign(normal)
        case "t3":
            return generator.standard_t(3, shape)
        case "grained":  # as an accuracy on few examples
            return np.round(normal)
    raise AssertionError(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "two-valued", "t3", "grained"])
def test_false_positives_stay_below_alpha_when_looked_at_after_every_pair(kind):
    e_values = E_PROCESSES["symmetric"](_draw_null(kind, (40, 20_000)))
    share = (e_values.max(axis=0) >= 20).mean()
    assert 0.02 < share <= 0.05


def test_two_valued_differences_break_the_normal_form():
    e_values = E_PROCESSES["normal"](_draw_null("two-valued", (40, 5000)))
    assert (e_values.max(axis=0) >= 20).mean() > 0.05


@pytest.mark.parametrize(("effect", "most_pairs"), [(1, 11), (1.5, 7), (2, 6), (3, 6)])
def test_clear_effects_need_few_pairs(effect, most_pairs):
    e_values = E_PROCESSES["symmetric"](_draw_null("normal", (40, 4000)) + effect)
    has_decided = e_values >= 20
    num_pairs = np.where(has_decided.any(axis=0), has_decided.argmax(axis=0) + 1, 41)
    assert num_pairs.min() == 6
    assert np.median(num_pairs) <= most_pairs


def test_small_differences_at_first_do_not_lose_the_stake_of_later_ones():
    """A stake in proportion to the earlier squares alone would be lost to a factor of 1e12 by the third pair."""
    e_values = compute_e_values([-0.11, -0.11, 1.56, 0.17, 0.72, 0.17, 0.44, 1.56, 1.56, 1.56])
    assert min(e_values) > 0.5
    assert e_values[-1] > 20


def test_searches_with_an_effect_of_one_deviation_decide_within_forty_pairs():
    e_values = E_PROCESSES["symmetric"](_draw_null("normal", (40, 4000)) + 1.0)
    assert (e_values.max(axis=0) >= 20).mean() > 0.99


def test_no_interval_is_bounded_before_six_pairs():
    assert compute_effect_interval(KD_DIFFERENCES).as_json() == [None, None]


def test_the_interval_leaves_out_zero_exactly_if_the_evidence_decides():
    differences = [*KD_DIFFERENCES, 0.55]
    assert max(compute_e_values(differences)) >= 20
    assert compute_effect_interval(differences).low > 0
    undecided = [*KD_DIFFERENCES, -0.05]
    assert max(compute_e_values(undecided)) < 20
    interval = compute_effect_interval(undecided)
    assert interval.low < 0 < interval.high


@pytest.mark.slow
def test_the_interval_covers_the_true_difference_at_any_time():
    generator = np.random.default_rng(3)
    missed = 0
    for _ in range(200):
        differences = (generator.standard_normal(10) + 4.0).tolist()
        interval = compute_effect_interval(differences)
        missed += not interval.low <= 4.0 <= interval.high
    assert missed <= 18  # 5 % of 200 are 10; 18 has a probability of 1 %


def test_the_interval_shrinks_and_follows_the_unit():
    generator = np.random.default_rng(5)
    differences = (generator.standard_normal(40) * 1e-4 + 2e-4).tolist()
    short, long = compute_effect_interval(differences[:10]), compute_effect_interval(differences)
    assert long.high - long.low < short.high - short.low < 1e-2
    scaled = compute_effect_interval([1e4 * value for value in differences])
    assert (scaled.low, scaled.high) == pytest.approx((1e4 * long.low, 1e4 * long.high))


def test_equal_differences_have_a_narrow_interval():
    interval = compute_effect_interval([0.5] * 12)
    assert 0 < interval.low <= 0.5 <= interval.high < 1.0
    assert compute_effect_interval([0.0] * 12).is_within(math.inf)


def test_e_bh_keeps_the_strongest_claims():
    # K = 4, alpha = 0.05: one claim needs 80, two need 40, three need 26.7.
    assert select_by_e_bh([100.0, 1.0, 0.5, 2.0]) == [True, False, False, False]
    assert select_by_e_bh([45.0, 41.0, 0.5, 2.0]) == [True, True, False, False]
    assert select_by_e_bh([39.0, 30.0, 20.0, 2.0]) == [False, False, False, False]
    assert select_by_e_bh([]) == []


def test_differences_that_drift_have_an_interval_that_holds_their_mean():
    drifting = [-0.05 + 0.001 * number for number in range(8)] + [0.2 + 0.001 * number for number in range(12)]
    for count in range(6, 21):
        interval = compute_effect_interval(drifting[:count])
        assert interval.low - 1e-9 <= np.mean(drifting[:count]) <= interval.high + 1e-9
    assert interval.low == pytest.approx(min(drifting))  # every shift was rejected at some time
    assert interval.high == pytest.approx(max(drifting))
