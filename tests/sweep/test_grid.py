"""Which trials a line makes."""

from __future__ import annotations

import pytest

from dnntrain.errors import ConfigError
from dnntrain.sweep.grid import make_combinations, make_folder_name

CHOICES = {"model": ("mlp", "resnet18", "resnet20"), "reg": ("l1", "sam")}


def trials(*words: str) -> list[str]:
    """The words of each trial, as one text."""
    return [" ".join(part.words) for part in make_combinations(words, lambda group: CHOICES.get(group, ()))]


def test_every_combination_is_a_trial_and_the_last_word_varies_fastest() -> None:
    assert trials("sched=cosine,step", "seed=1", "optim.lr=0.1,0.01") == [
        "sched=cosine seed=1 optim.lr=0.1",
        "sched=cosine seed=1 optim.lr=0.01",
        "sched=step seed=1 optim.lr=0.1",
        "sched=step seed=1 optim.lr=0.01",
    ]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("optim.lr=choice(0.1,0.01)", ["optim.lr=0.1", "optim.lr=0.01"]),
        ("seed=range(0,3)", ["seed=0", "seed=1", "seed=2"]),
        ("seed=range(10,0,step=-5)", ["seed=10", "seed=5"]),
        ("model=glob(resnet*)", ["model=resnet18", "model=resnet20"]),
        ("model=glob(*,exclude=resnet*)", ["model=mlp"]),
        ("reg=[sam],[l1]", ["reg=[sam]", "reg=[l1]"]),
        ("+reg=[sam],[l1,sam],[]", ["+reg=[sam]", "+reg=[l1,sam]", "+reg=[]"]),
        ("name='a,b',c", ["name='a,b'", "name=c"]),
        ("train.max_examples=null,100", ["train.max_examples=null", "train.max_examples=100"]),
        ("train.compile=on,off", ["train.compile=on", "train.compile=off"]),
        ("reg=[sam,l1]", ["reg=[sam,l1]"]),
        ("data.root='a,b'", ["data.root='a,b'"]),
        ("data.root=odd path(1", ["data.root=odd path(1"]),
    ],
)
def test_values_are_read_by_hydras_grammar(word: str, expected: list[str]) -> None:
    assert trials(word) == expected


def test_only_words_with_several_values_distinguish_the_trials() -> None:
    parts = make_combinations(["seed=1", "optim.lr=0.1,0.01"], lambda group: ())
    assert [part.swept_words for part in parts] == [("optim.lr=0.1",), ("optim.lr=0.01",)]
    assert make_combinations(["seed=1"], lambda group: ())[0].swept_words == ()


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("optim.lr=interval(0,1)", "an interval has infinitely many values"),
        ("seed=shuffle(1,2,3)", "its order would change each time"),
        ("seed=range(3,0)", "no value matches"),
        ("model=glob(vit*)", "no value matches"),
        ("optim.lr=0.1,0.1", "0.1 appears twice"),
        ("run_dir=a,b", "each trial has its own folder"),
        ("resume=auto,never", "each trial resumes by itself"),
        ("seed=range(0,1000000000000)", "more than 1000 trials"),
    ],
)
def test_what_makes_no_sweep_is_refused(word: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        trials(word)


def test_all_words_that_make_no_sweep_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match="2 mistakes"):
        trials("seed=range(3,0)", "optim.lr=interval(0,1)")


def test_a_product_of_too_many_trials_is_refused_with_its_factors() -> None:
    with pytest.raises(ConfigError, match="40 × 40 values are more than 1000 trials"):
        trials("seed=range(0,40)", "train.max_examples=range(1,41)")


def test_folder_names_follow_from_number_and_values() -> None:
    assert make_folder_name(2, 6, ["sched=step", "optim.lr=0.1"]) == "2-sched=step,optim.lr=0.1"
    assert make_folder_name(2, 12, ["+reg=[l1,sam]"]) == "02-reg=l1,sam"
    assert make_folder_name(1, 1, []) == "1-only"


def test_folder_names_are_plain_and_short() -> None:
    name = make_folder_name(1, 2, ["data.root='/a b/../c'", "name=" + "x" * 300])
    assert len(name) <= 100
    assert not set(name) & set("/ '*[]")
    assert name != make_folder_name(1, 2, ["data.root='/a b/../c'", "name=" + "x" * 301])
