"""The displays: what they show, at which width, with which codes, and that they never stand in the way."""

from __future__ import annotations

import io
import json
import math
import os
import pty
import re
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from stand_ins import METRICS

from dnntrain.display.base import Header, LiveState, Pace, format_learning_rate, format_metric, format_throughput
from dnntrain.display.factory import make_display
from dnntrain.display.live_display import TerminalDisplay
from dnntrain.display.live_panel import (
    History,
    draw_sparkline,
    fit_text,
    format_panel,
    format_table_head,
    format_table_row,
)
from dnntrain.display.plain import JsonDisplay, PlainDisplay, QuietDisplay, format_row, format_state
from dnntrain.protocols import LOSS, MetricInfo
from dnntrain.utils.streams import SafeStream

HEADER = Header(
    "small_cnn-digits", "small_cnn", "digits", "single, bf16", 421_642, 200, 10.0, "runs/small_cnn-digits/1", METRICS
)
STATE = LiveState(50, 200, 2.5, 10.0, 0.25, 12.0, 36.0, 0.123, METRICS[0], 0.9731, 0.9810, 1e-3, 41_234.0, 512 * 2**20)
VAL = {"step": 60, "epoch": 3.0, "examples": 7680, "wall_s": 1.5, "split": "val", "loss": 0.2, "accuracy": 0.99}

#: Trains nothing: feeds a display as a run would, in a process of its own.
SCRIPT = """
import sys
from dnntrain.display.factory import make_display
from dnntrain.protocols import LOSS, MetricInfo
from dnntrain.display.base import Header, LiveState
METRICS = (MetricInfo("accuracy", higher_is_better=True, unit="%"), LOSS)
display = make_display(sys.argv[1])
display.start(Header("a run", "small_cnn", "digits", "single, bf16", 421642, 20, 2.0, "runs/a/1", METRICS))
for step in range(1, 21):
    row = {"step": step, "epoch": step / 10, "examples": step, "wall_s": step / 10}
    display.show_row({**row, "split": "train", "loss": 1 / step, "lr": 0.001, "examples_per_s": 1000.0})
    if step % 10 == 0:
        display.show_row({**row, "split": "val", "loss": 1 / step, "accuracy": step / 20}, is_best=True)
    display.refresh(LiveState(step, 20, step / 10, 2.0, step / 20, step / 10, 1.0, 1 / step, examples_per_s=950.0))
    if step == 15:
        print("a library warns", file=sys.stderr)
display.close("status: done")
"""


def run_script(mode: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, mode]
    return subprocess.run(
        command, env=child_environ(**environ), capture_output=True, text=True, timeout=60, check=False
    )


def child_environ(**environ: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    }
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm-256color", **environ}


def run_in_terminal(columns: int, **environ: str) -> str:
    """What the script writes to a terminal of so many columns, with all its codes."""
    leader, follower = pty.openpty()
    size = {"COLUMNS": str(columns), "LINES": "25"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "auto"], env=child_environ(**size, **environ), stdout=follower, stderr=follower
    )
    os.close(follower)
    output = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not data:
            break
        output += data
    os.close(leader)
    assert process.wait(timeout=30) == 0
    return output.decode()


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_terminal_shows_bar_figures_and_a_table_row_for_each_evaluation() -> None:
    output = run_in_terminal(80)
    plain = without_codes(output)
    for expected in (
        "a run",
        "eta",
        "loss",
        "accuracy",
        "best",
        "lr",
        "950 ex/s",
        "train loss",
        "2.0s ★",
        "status: done",
    ):
        assert expected in plain
    assert "\x1b[1A" in output  # draws over itself
    assert "\x1b[36m" in output  # cyan
    assert plain.count("a library warns") == 1
    assert output.endswith("status: done\x1b[0m\r\n")
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h")  # the cursor is given back


@pytest.mark.sampled
@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    lines = re.split(r"[\r\n]+", without_codes(run_in_terminal(columns)))
    assert max(cell_len(line) for line in lines if "library" not in line and "status" not in line) < columns


def test_no_color_keeps_the_live_view_without_colours() -> None:
    output = run_in_terminal(80, NO_COLOR="1")
    assert "\x1b[1A" in output
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m|\x1b\[9[0-7]m|\x1b\[[0-9;]*38;", output)


def test_a_dumb_terminal_gets_plain_lines() -> None:
    output = run_in_terminal(80, TERM="dumb")
    assert "\x1b" not in output
    assert "val at step 10/20, epoch 1.00: loss 0.1000, accuracy 50.00%" in output


def test_a_pipe_gets_plain_lines_without_codes() -> None:
    completed = run_script("auto")
    assert completed.returncode == 0
    assert "\x1b" not in completed.stderr
    assert completed.stdout == ""
    assert "val at step 20/20, epoch 2.00: loss 0.0500, accuracy 100.00%, best so far" in completed.stderr
    assert completed.stderr.splitlines()[-1] == "status: done"


def test_forced_colour_colours_a_pipe_and_moves_no_cursor() -> None:
    errors = run_script("auto", FORCE_COLOR="1").stderr
    assert set(re.findall(r"\x1b\[[^A-Za-z]*[A-Za-z]", errors)) == {"\x1b[32m", "\x1b[0m"}


def test_quiet_says_nothing_but_warnings() -> None:
    completed = run_script("quiet")
    assert completed.stdout == ""
    assert completed.stderr == "a library warns\n"
    stream = io.StringIO()
    display = QuietDisplay(stream)
    display.show_message("a note")
    display.show_message("a warning", warning=True)
    assert stream.getvalue() == "a warning\n"


def test_json_writes_every_row_to_stdout_and_nothing_else() -> None:
    rows = [json.loads(line) for line in run_script("json").stdout.splitlines()]
    assert len(rows) == 22
    assert rows[-1]["accuracy"] == 1.0


def test_json_writes_values_that_are_not_finite_as_text() -> None:
    output = io.StringIO()
    JsonDisplay(io.StringIO(), output).show_row({"step": 1, "split": "train", "loss": math.nan, "grad_norm": math.inf})
    assert json.loads(output.getvalue()) == {"step": 1, "split": "train", "loss": "nan", "grad_norm": "inf"}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "json"])
def test_a_closed_pipe_neither_ends_the_run_nor_makes_noise(mode: str, tmp_path: Path) -> None:
    script = SCRIPT + "\nopen(sys.argv[2], 'w').write('ended')"
    reader, writer = os.pipe()
    os.close(reader)
    marker = tmp_path / "ended"
    pipes = {"stdout": writer, "stderr": subprocess.PIPE} if mode == "json" else {"stderr": writer}
    completed = subprocess.run(
        [sys.executable, "-c", script, mode, str(marker)], env=child_environ(), timeout=60, check=False, **pipes
    )
    os.close(writer)
    assert completed.returncode == 0
    assert marker.read_text() == "ended"
    assert mode == "auto" or completed.stderr == b"a library warns\n"


def test_plain_lines_come_every_few_seconds() -> None:
    display = PlainDisplay(io.StringIO())
    display.refresh(STATE)
    assert 4 < display.next_refresh - time.perf_counter() <= 5


def test_plain_lines_become_rarer_in_a_long_run() -> None:
    display = PlainDisplay(io.StringIO())
    display.refresh(LiveState(elapsed_s=100_000.0))
    assert 50 < display.next_refresh - time.perf_counter() <= 60


def test_a_plain_line_leaves_out_what_is_unknown() -> None:
    stream = io.StringIO()
    PlainDisplay(stream).refresh(LiveState(step=3))
    assert stream.getvalue() == "step 3  0%  epoch 0.00\n"


def test_a_dear_refresh_puts_the_next_one_off() -> None:
    pace = Pace(min_interval_s=0.25)
    now = time.perf_counter()
    pace.record_refresh(now - 0.03)  # took 30 ms: at 0.3 % of the time the next one may come after 10 s
    assert pace.next_s - now >= 10


def test_a_cheap_refresh_comes_four_times_a_second() -> None:
    pace = Pace(min_interval_s=0.25)
    now = time.perf_counter()
    pace.record_refresh(now)
    assert 0.25 <= pace.next_s - now < 1


def test_many_evaluations_do_not_put_the_refresh_off() -> None:
    from dnntrain.display.live_display import TerminalDisplay

    display = TerminalDisplay(io.StringIO())
    display.start(HEADER)
    display.show_row(VAL)
    assert display.next_refresh == 0.0
    display.close("status: done")


def test_rich_is_imported_for_a_terminal_only() -> None:
    script = "import sys; from dnntrain.display.factory import make_display; make_display('auto'); assert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], env=child_environ(), stderr=subprocess.PIPE, check=True, timeout=60)


def test_make_display_takes_the_streams_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    make_display("auto").show_message("hello")
    assert capsys.readouterr().err == "hello\n"


def test_letters_that_the_stream_cannot_encode_become_question_marks() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    SafeStream(stream).write_line("größe ★")
    assert raw.getvalue() == b"gr??e ?\n"


@given(
    width=st.integers(10, 200),
    height=st.integers(2, 60),
    title=st.text(max_size=60),
    number=st.floats(allow_nan=True),
    fraction=st.floats(0, 1),
    count=st.integers(0, 10**12),
)
def test_every_line_of_the_panel_is_exactly_as_wide_as_asked(
    width: int, height: int, title: str, number: float, fraction: float, count: int
) -> None:
    header = Header(title, "m", "d", "l", count, count, number, "r")
    state = LiveState(
        count, count, 1.0, 2.0, fraction, 5.0, number, number, METRICS[0], number, number, number, number, count
    )
    lines = format_panel(header, state, [1.0, 0.5], width, height)
    assert [sum(cell_len(text) for text, _ in line) for line in lines] == [width] * len(lines)
    assert len(lines) < max(height, 3)


def test_the_panel_has_no_letter_beyond_ascii_where_none_can_be_shown() -> None:
    lines = format_panel(HEADER, STATE, [3.0, 2.0, 1.0], 79, ascii_only=True)
    assert "".join(text for line in lines for text, _ in line).isascii()


def test_a_run_of_given_time_shows_no_total() -> None:
    state = LiveState(step=5, epoch=1.5, fraction=0.5, eta_s=30.0)
    text = "".join(text for line in format_panel(HEADER, state, [], 79) for text, _ in line)
    assert "epoch 1.5  step 5 " in text
    assert "50%" in text


@pytest.mark.parametrize(("width", "columns"), [(80, 6), (40, 3), (20, 2)])
def test_the_table_keeps_its_most_telling_columns(width: int, columns: int) -> None:
    head = "".join(text for text, _ in format_table_head(METRICS[0], width))
    row = "".join(text for text, _ in format_table_row(VAL, METRICS[0], 0.3, False, width))
    assert len(re.split(r"\s{2,}", head.strip())) == columns
    assert len(row) <= width
    assert "99.00%" in row


def test_the_sparkline_falls_with_the_loss() -> None:
    assert draw_sparkline([4.0, 3.0, 2.0, 1.0], 6) == "█▆▃▁  "


def test_the_history_keeps_the_course_of_any_number_of_values() -> None:
    history = History(size=8)
    for value in range(1000):
        history.add(float(value))
    history.add(math.nan)
    assert len(history.values) <= 8
    assert history.values == sorted(history.values)


def test_control_letters_of_a_name_never_reach_the_terminal() -> None:
    assert fit_text("a\x1b[2Jb\nc", 20) == r"a\x1b[2Jb\nc"


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (METRICS[0], 0.98765, "98.77%"),
        (METRICS[0], 1.0, "100.00%"),
        (LOSS, 0.12345, "0.1235"),
        (LOSS, 123456.0, "1.23e+05"),
        (LOSS, math.nan, "-"),
        (LOSS, math.inf, "inf"),
        (MetricInfo("error", unit="mm"), 0.5, "0.5000 mm"),
    ],
)
def test_metrics_are_shown_for_people(metric: MetricInfo, value: float, text: str) -> None:
    assert format_metric(metric, value) == text


@pytest.mark.parametrize(("value", "text"), [(0.0003, "3.00e-04"), (0.1, "0.1"), (math.nan, "-")])
def test_learning_rates_have_three_digits(value: float, text: str) -> None:
    assert format_learning_rate(value) == text


def test_speeds_are_shown_with_a_unit() -> None:
    assert [format_throughput(rate) for rate in (950.0, 41_234.0, 2.5e6, math.nan)] == [
        "950 ex/s",
        "41.2k ex/s",
        "2.5M ex/s",
        "-",
    ]


def test_no_remaining_time_is_shown_when_all_steps_are_done() -> None:
    """A run at its end still tests and exports: 100 %, and no ETA."""
    for fraction, shown in [(0.25, " 25%"), (0.9999, " 99%"), (1.0, "100%"), (1.2, "100%")]:
        state = replace(STATE, fraction=fraction)
        texts = ["".join(text for text, _ in format_panel(HEADER, state, [], 80)[1]), format_state(state)]
        for text in texts:
            assert shown.strip() in text
            assert ("eta" in text) == (fraction < 1), text


def test_the_row_of_the_test_names_the_weights() -> None:
    test = {**VAL, "step": 200, "split": "test", "weights_step": 60}
    assert format_row(test, METRICS, 200).startswith(
        "test at step 200/200, epoch 3.00, with the best weights, of step 60: "
    )
    assert "weights" not in format_row({**test, "weights_step": 200}, METRICS, 200)
    assert "weights" not in format_row(VAL, METRICS, 200)
    (line,) = format_table_row(test, METRICS[0], math.nan, is_best=False, width=79)
    assert line[0].split()[:2] == ["test", "60"]


def test_names_cannot_act_on_the_terminal() -> None:
    header = replace(HEADER, title="a\x1b[2Jrun", model="cnn\u202egnp", data="\x9b1mdigits", run_dir="runs/\rx")
    for mode in ("auto", "quiet"):
        output = io.StringIO()
        display = make_display(mode, output)
        display.start(header)
        display.show_row({**VAL, "split": "event", "event": "stop", "reason": "\x1b]0;title\x07"})
        display.show_message("class \u200bcat\x1b[31m", warning=True)
        display.close("status: \x1b[31mdone")
        assert not set(output.getvalue()) & set("\x1b\x9b\r\u202e\u200b\x07")
        assert r"class \u200bcat\x1b[31m" in output.getvalue()


def test_a_live_view_shows_its_own_codes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    output = Terminal()
    monkeypatch.setattr(sys, "stderr", output)
    display = make_display("auto", output)
    display.start(replace(HEADER, title="a\x1b[2Jrun", run_dir="runs/\u202ex"))
    print("a library \x1b]8;;http://x\x07says\x1b[5m", file=sys.stderr)
    display.show_message("class \u200bcat\x1b[31m", warning=True)
    display.close("done")
    assert sys.stderr is output
    text = output.getvalue()
    assert not {"\x1b[2J", "\x1b[31m", "\x1b[5m", "\x1b]8", "\u202e", "\u200b"} & set(
        re.findall(r"\x1b\[[0-9;]*[a-zA-Z]|\x1b\]8|[\u202e\u200b]", text)
    )
    for shown in (
        r"a\x1b[2Jrun",
        r"runs/\u202ex",
        r"a library \x1b]8;;http://x\x07says\x1b[5m",
        r"class \u200bcat\x1b[31m",
    ):
        assert shown in text


def test_control_keys_are_not_echoed_into_a_live_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """The letters ^C would move the cursor, and the next refresh would leave a torn line."""
    monkeypatch.setenv("TERM", "xterm-256color")
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        display = make_display("auto", terminal)
        before = termios.tcgetattr(follower)
        assert before[3] & termios.ECHOCTL
        display.start(HEADER)
        assert not termios.tcgetattr(follower)[3] & termios.ECHOCTL
        assert termios.tcgetattr(follower)[3] & termios.ECHO
        display.close("status: interrupted")
        assert termios.tcgetattr(follower) == before
    os.close(leader)


def test_a_message_of_a_signal_waits_for_the_drawing_that_it_interrupts() -> None:
    class Interrupting(io.StringIO):
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            if "small_cnn" in text and not self.getvalue():
                display.show_message("SIGINT: saving")
            return super().write(text)

    output = Interrupting()
    display = TerminalDisplay(output)
    display.start(HEADER)
    display.close("done")
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.getvalue()).splitlines()
    assert "small_cnn" in lines[0]
    assert "SIGINT: saving" in lines
