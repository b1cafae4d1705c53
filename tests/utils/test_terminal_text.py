"""Text for a terminal: each letter that acts on it, or that nobody sees, is shown by its code."""

from __future__ import annotations

import csv
import io
import sys
import unicodedata

import pytest

from dnntrain.utils.csv_text import format_csv, format_csv_line
from dnntrain.utils.streams import KEEP_BYTES, CleanStream, SafeStream, clean_output
from dnntrain.utils.terminal_text import clean_line, clean_text, is_clean


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, déjà vu, 日本語, ★", "plain text, déjà vu, 日本語, ★"),
        ("two\n\tlines", "two\n\tlines"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("bad\rgood", r"bad\rgood"),
        ("a line of Windows\r\n", "a line of Windows\n"),
        ("\b\b\x7f\x00", r"\x08\x08\x7f\x00"),
        ("photo\u202egnp.exe", r"photo\u202egnp.exe"),
        ("\u2066\u2069\u200f\u061c", r"\u2066\u2069\u200f\u061c"),
        ("cat\u200b\u200d\ufeff\u2060", r"cat\u200b\u200d\ufeff\u2060"),
        ("\u2028\u2029\x85", r"\u2028\u2029\x85"),
        ("\u3164\uffa0\u115f\u034f\ufe0f", r"\u3164\uffa0\u115f\u034f\ufe0f"),
        ("\U000e0041\U000e0101", r"\U000e0041\U000e0101"),
        ("\udcff", r"\udcff"),
        ("\\x1b", r"\x1b"),
    ],
)
def test_letters_that_act_or_hide_are_shown_by_their_code(text: str, shown: str) -> None:
    assert clean_text(text) == shown
    assert clean_text(shown) == shown


def test_no_control_or_format_letter_of_unicode_passes() -> None:
    letters = map(chr, range(sys.maxunicode + 1))
    passed = {letter for letter in letters if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert {letter for letter in passed if clean_text(letter) == letter} == {"\n", "\t"}
    assert not any(map(is_clean, passed))


def test_a_name_stays_on_one_line() -> None:
    assert clean_line("cat\ndone: accuracy 1.0\tok") == r"cat\ndone: accuracy 1.0\tok"


def test_a_message_is_clean_and_only_its_color_acts() -> None:
    output = io.StringIO()
    SafeStream(output).write_line("class \x1b[2J", color=33)
    assert output.getvalue() == "\x1b[33mclass \\x1b[2J\x1b[0m\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_stderr_is_always_cleaned_and_stdout_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for stdout, shown in [(Terminal(), "\\x1b[2J\n"), (io.StringIO(), "\x1b[2J\n")]:
        stderr = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(sys, "stderr", stderr)
        with clean_output():
            print("\x1b[2J")
            print("\x1b[2J", file=sys.stderr)
            sys.stderr.writelines(["\u202e", "\n"])
        assert (sys.stdout, sys.stderr) == (stdout, stderr)
        assert stdout.getvalue() == shown
        assert stderr.getvalue() == "\\x1b[2J\n\\u202e\n"


def test_a_display_writes_below_the_cleaning() -> None:
    output = io.StringIO()
    stream = SafeStream(CleanStream(output))
    stream.write("\r3 of 9")
    stream.write_line("\r")
    assert output.getvalue() == "\r3 of 9\\r\n"


def test_a_pipe_gets_the_bytes_of_a_name_that_is_not_text() -> None:
    assert "photo\udcff é \ud800".encode("utf-8", KEEP_BYTES) == b"photo\xff \xc3\xa9 \\ud800"


def test_csv_is_read_back_whatever_a_name_holds() -> None:
    names = ["a\rb", "c\nd", 'e"f', "g,h", "\x1b[31m", "", " "]
    assert format_csv_line(names).endswith("\n")
    text = format_csv([names, names])
    assert "\r\n" not in text
    assert list(csv.reader(io.StringIO(text, newline=""))) == [names, names]
