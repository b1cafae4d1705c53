from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dnntrain.config.yaml_io import dump_yaml, parse_yaml, read_yaml
from dnntrain.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x:3: the key 'a' occurs twice"),
        ("a: !!python/object/apply:os.system [id]\n", "x:1: the tag !!python/object/apply:os.system is not supported"),
        ("a: !!set {b}\n", "the tag !!set is not supported"),
        ("on: 1\n", "x:1: the key 'on' must be text"),
        ("a:\n\tb: 1\n", "x:2: found character"),
        ("- 1\n", "a configuration file must hold"),
        ("a: [1\n", "x:2: "),
        ("a: \x07\n", "x: "),
        ("base: &b {c: 1}\nd:\n  <<: *b\n", "x:3: the key '<<' must be text"),
        ("[" * 3000, "x"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="x") as caught:
        parse_yaml(text, "x")
    assert message in str(caught.value)


def test_aliases_cannot_multiply_without_end() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ConfigError, match="are aliases"):
        parse_yaml("\n".join(lines), "bomb")


def test_an_alias_to_itself_is_refused() -> None:
    with pytest.raises(ConfigError):
        parse_yaml("a: &a [*a]\n", "loop")


@pytest.mark.parametrize(
    "text", ["1e-3", "1.5", "7", "true", "off", "~", "no", "2026-01-01", "1_000", "0x1f", "'1'", ".5"]
)
def test_a_scalar_means_what_omegaconf_reads(text: str) -> None:
    assert parse_yaml(f"a: {text}", "x")[0] == OmegaConf.to_container(OmegaConf.create(f"a: {text}"))


def test_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"# about\r\nname: a\r\nlr: 1e-3 # rate\r\n")
    file = read_yaml(path)
    assert (file.values, file.doc) == ({"name": "a", "lr": 0.001}, "about")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xef\xbb\xbfa: 1\n", "byte-order mark"), (b"a: \xff\n", "not UTF-8"), (b"a: " + b"x" * (1 << 20), "at most")],
)
def test_a_file_of_another_encoding_or_size_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_yaml(path)


_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
)


@given(st.dictionaries(st.text(), st.one_of(_SCALARS, st.lists(_SCALARS, max_size=3)), max_size=5))
def test_what_is_written_reads_back_equal(values: dict[str, object]) -> None:
    assert parse_yaml(dump_yaml(values), "x")[0] == values
