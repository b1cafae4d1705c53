"""Numbers and paths of any length are rejected with a message, never with a traceback."""

from __future__ import annotations

import pytest

from dnntrain.cli.main import main
from dnntrain.config.convert import convert_value
from dnntrain.config.fields import NonNegativeInt, Positive, PositiveInt, RunDuration, Seed

_LONG, _HUGE, _PATH = "1" * 400, "1" * 5000, "/" + "x" * 5000


@pytest.mark.parametrize("annotation", [PositiveInt, NonNegativeInt, Positive, Seed, int, float, str, int | None])
@pytest.mark.parametrize("value", [10**400, -(10**400), 10**5000, 2**63], ids=["1e400", "-1e400", "1e5000", "2**63"])
def test_an_integer_beyond_64_bits_is_not_a_value(annotation: object, value: int) -> None:
    with pytest.raises(ValueError, match=r"at most 2\^63 - 1|is not"):
        convert_value(value, annotation)


@pytest.mark.parametrize("text", [f"{_LONG}ep", f"{_LONG}step", f"{_HUGE}step", "1e308ep", "1e300step", "2e15s"])
def test_a_duration_has_a_largest_value(text: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        convert_value(text, RunDuration)
    assert len(str(caught.value)) < 200


@pytest.mark.sampled
@pytest.mark.parametrize(
    "words",
    [
        ["plan", f"train.batch_size={_LONG}"],
        ["plan", f"optim.lr={_LONG}"],
        ["plan", f"optim.lr={_HUGE}"],
        ["plan", f"seed={_LONG}"],
        ["plan", "model=mlp", f"model.hidden=[{_LONG}]"],
        ["plan", f"run_dir={_PATH}"],
        ["plan", "--config-dir", _PATH],
        ["plan", f"init_from={_PATH}"],
        ["plan", "data=image_folder", f"data.root={_PATH}"],
        ["plan", "model=custom", f"model.file={_PATH}"],
        ["plan", "parallel=ddp", "launch.nproc=1000000000"],
        ["eval", _PATH],
        ["predict", _PATH, _PATH],
        ["report", _PATH],
        ["export", _PATH],
        ["bench", _PATH],
        ["resume", _PATH],
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_a_command_refuses_what_is_too_long(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, text = main(words), capsys.readouterr().err
    assert code in (2, 3, 5), text[-2000:]
    assert "this is a bug" not in text
    assert "Traceback" not in text


@pytest.mark.sampled
@pytest.mark.parametrize(
    "hidden", ["[1000000,1000000]", "[100000,100000]", "[9000000000000000000]", "[3000000000,3000000000]"]
)
def test_a_model_that_does_not_fit_is_refused_with_the_memory(hidden: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "model=mlp", f"model.hidden={hidden}"]) == 2
    text = capsys.readouterr().err
    assert "model=mlp does not fit" in text
    assert "GiB" in text or "TiB" in text or "overflowed" in text
