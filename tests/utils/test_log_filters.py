"""What libraries log about their own code is hidden by its words; all else that they warn of is shown."""

from __future__ import annotations

import logging

import pytest

from dnntrain.utils.log_filters import NOISE_LINES, hide_noise


@pytest.mark.parametrize(("name", "words"), NOISE_LINES.items())
def test_a_known_line_is_hidden_and_another_of_the_same_logger_is_not(
    name: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    hide_noise()
    hide_noise()
    logger = logging.getLogger(name)
    assert len(logger.filters) == 1
    logger.warning("%s here", words)
    logger.warning("a fault")
    assert [record.getMessage() for record in caplog.records] == ["a fault"]
