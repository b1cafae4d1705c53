"""The resolved default and every experiment, as files: a changed default shows in review.

Renew with scripts/update_golden.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dnntrain.config.compose import compose
from dnntrain.config.registry import load_registry
from dnntrain.config.yaml_io import dump_yaml

GOLDEN = Path(__file__).parents[1] / "golden"


def lines() -> dict[str, list[str]]:
    """The command line of each golden file, by the file's name."""
    found: dict[str, list[str]] = {"default": []}
    for group in ("experiment", "debug"):
        found |= {f"{group}-{name}": [f"{group}={name}"] for name in load_registry().list_names(group)}
    return found


@pytest.mark.sampled
@pytest.mark.parametrize("name", lines())
def test_the_resolved_configuration_is_as_recorded(name: str) -> None:
    recorded = (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")
    assert dump_yaml(compose(lines()[name])) == recorded, "if the change is meant: scripts/update_golden"


def test_no_recorded_configuration_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(lines())


def main() -> None:
    """Writes every file anew."""
    for path in GOLDEN.glob("*.yaml"):
        path.unlink()
    for name, words in lines().items():
        (GOLDEN / f"{name}.yaml").write_text(dump_yaml(compose(words)), encoding="utf-8")
        print(GOLDEN / f"{name}.yaml")


if __name__ == "__main__":
    main()
