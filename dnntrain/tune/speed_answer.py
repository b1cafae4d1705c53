"""Answer `dnntrain tune speed`: from the cache, or by measuring."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dnntrain.protocols.speed import SpeedGrade
from dnntrain.run.tuned_settings import TunedSettings, make_speed_key
from dnntrain.tune.speed import format_json, tune_speed
from dnntrain.tune.speed_cache import cache_settings, find_cached_settings

if TYPE_CHECKING:
    from dnntrain.run.session import Session


def answer_speed(
    session: Session,
    overrides: Sequence[str],
    config_dir: Path | None,
    budget_s: float,
    allow: SpeedGrade,
    *,
    use_cache: bool,
    say: Callable[[str], None],
) -> TunedSettings:
    """Return the fastest settings with their evidence.

    A result is kept unless the machine was busy. It counts for the same line only: the settings that
    the line has already are part of the question.
    """
    key = make_speed_key(session.config, session.hardware, session.data.dataset.digest)
    question = {"line": sorted(word for word in overrides if not word.startswith("run_dir=")), "allow": allow.value}
    if use_cache and (cached := find_cached_settings(key, question)) is not None:
        say("measured before on this machine, with the same versions, network and data; --no-cache measures again")
        return cached
    result = tune_speed(session, overrides, config_dir, budget_s, allow, say)
    if not result.words:
        say("nothing is faster than the line as it is")
    tuned = TunedSettings(tuple(result.words), key, json.loads(format_json(result)))
    if result.is_reliable and not result.skipped:
        cache_settings(tuned, question)
    return tuned
