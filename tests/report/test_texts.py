"""The texts of a report: escaped, cut, and skipped if the file has something else."""

from __future__ import annotations

from dnntrain.report.generated_texts import render_progress, render_texts


def test_texts_are_escaped_and_invalid_ones_are_skipped() -> None:
    page = render_texts(
        {
            "samples": ["<b>bold</b>", 7],
            "attention_kernel": "flash",
            "surprising_tokens": [
                {"name": "a.txt", "before": "x<y", "token": "&", "bits": 12.34},
                {"name": "a.txt", "bits": "many"},
                5,
            ],
        }
    )
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert page.count("<pre>") == 1
    assert "12.3" in page
    assert "x&lt;y" in page
    assert "many" not in page
    assert "Attention: flash kernel" in page


def test_other_evaluations_have_no_texts() -> None:
    assert render_texts({"samples": "text", "surprising_tokens": {}}) == ""
    assert render_texts({}) == ""


def test_the_texts_of_evaluations_are_listed_by_step() -> None:
    page = render_progress([(10.0, "a < b"), (20.0, "c")])
    assert page.index("10") < page.index("a &lt; b") < page.index("20")
    assert render_progress([]) == ""
