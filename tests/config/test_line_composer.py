from __future__ import annotations

import pytest

from dnntrain.config import line_composer
from dnntrain.config.compose import compose
from dnntrain.config.line_composer import LineComposer
from dnntrain.errors import ConfigError

FIXED = ["model=mlp", "+reg=[dropout]", "train.max_examples=300"]

LINES = [
    ["optim.lr=0.1", "seed=3"],
    ["optim.lr=1e-3", "seed=5"],
    ["optim.lr=2", "seed=0"],
    ["reg.dropout.probability=0.25"],
    ["reg.dropout.probability=0.5"],
    ["train.duration=3ep", "eval.every=20step"],
    ["train.duration=400step", "eval.every=1ep"],
    ["train.compile=off"],
    ["train.compile=auto"],
    ["train.freeze=[head.*]"],
    ["train.freeze=['*','!head.*']"],
    ["data.val_fraction=0.2", "optim=sgd", "optim.lr=0.1"],
    ["data.val_fraction=0.3", "optim=adamw", "optim.lr=0.1"],
    ["task.metric=loss"],
    ["task.metric=accuracy"],
    ["name=a"],
    ["name=${labels.model}-b"],
    ["init_from=weights/a.safetensors"],
    ["init_from=weights/b.safetensors"],
    ["init_from=null"],
    ["+optim.weight_decay=0.01"],
    ["+optim.weight_decay=0"],
]


@pytest.mark.slow
def test_each_line_has_the_values_that_compose_gives_it() -> None:
    composer = LineComposer()
    for swept in LINES:
        words = [*FIXED, *swept]
        config = composer.compose(words, swept, quiet=True).config
        expected = compose(words, quiet=True)
        assert config == expected, swept
        assert repr(config) == repr(expected), swept


@pytest.mark.slow
def test_lines_that_differ_in_values_share_a_composition(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = line_composer.compose_unresolved
    monkeypatch.setattr(line_composer, "compose_unresolved", lambda line: calls.append(line) or real(line))
    composer = LineComposer()
    for lr in ("0.1", "0.2", "0.3"):
        for width in ("16", "32"):
            swept = [f"optim.lr={lr}", f"model.hidden=[{width}]"]
            line = composer.compose(["model=mlp", *swept], swept, quiet=True)
            assert line.config["optim"]["lr"] == float(lr)
            assert line.config["model"]["hidden"] == [int(width)]
            assert line.numbers == {"optim.lr": float(lr)}
    assert len(calls) == 1


@pytest.mark.slow
def test_a_value_that_is_not_valid_is_named_as_in_a_line_of_its_own() -> None:
    composer = LineComposer()
    composer.compose(["optim.lr=0.1"], ["optim.lr=0.1"], quiet=True)
    with pytest.raises(ConfigError) as shared:
        composer.compose(["optim.lr=-1"], ["optim.lr=-1"], quiet=True)
    with pytest.raises(ConfigError) as single:
        compose(["optim.lr=-1"], quiet=True)
    assert shared.value.mistakes == single.value.mistakes
