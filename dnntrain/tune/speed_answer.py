"""Answer `dnntrain tune speed`: from the cache, or by measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.protocols.speed import SpeedGrade
from dnntrain.run.tuned_settings import TunedSettings, make_speed_key
from dnntrain.tune.accuracy import make_prove_command
from dnntrain.tune.goal import LATENCY
from dnntrain.tune.speed import Say, SpeedRequest, make_evidence, tune_speed
from dnntrain.tune.speed_cache import cache_settings, find_cached_settings
from dnntrain.utils.sealed_json import compute_json_digest
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.config.run_config import RunConfig
    from dnntrain.run.session import Session
    from dnntrain.tune.goal import Goal

#: Sections and keys of a configuration on which no answer depends.
_IGNORED_KEYS = frozenset({"name", "run_dir", "resume", "seed", "log", "track"})


def answer_line(
    config: RunConfig,
    goal: Goal,
    overrides: Sequence[str],
    config_dir: Path | None,
    options: Mapping[str, Any],
    say: Say,
) -> TunedSettings:
    """Return the best settings for the goal of a line; `options` are those of the command."""
    from dnntrain.run.session import open_session

    request = SpeedRequest(
        tuple(overrides),
        config_dir,
        goal,
        None if options["budget"] is None else options["budget"].value,
        SpeedGrade(options["allow"]),
        options["max_slowdown"],
        options["margin"],
        tuple(sorted(set(options["batches"]))),
    )
    tuned = answer_speed(open_session(config, World()), request, use_cache=options["cache"], say=say)
    if (path := options["path"]) is not None:
        tuned.write(path)
        say(f"with the evidence in {path}; use it with tuned={path}")
    return tuned


def answer_speed(session: Session, request: SpeedRequest, *, use_cache: bool, say: Say) -> TunedSettings:
    """Return the best settings for the goal, with their evidence.

    A result is kept unless the machine was busy or the budget was spent. It counts for the same configuration
    only: the settings that it has already are part of the question. The best export depends on packages that
    may be installed later, so a latency is measured each time.
    """
    facts = session.config, session.hardware, session.data.dataset.digest, session.plan.ranks
    key, question = make_speed_key(*facts), make_question(session, request)
    is_kept = request.goal.kind != LATENCY
    cached = find_cached_settings(key, question) if use_cache and is_kept else None
    if cached is not None and cached.key == make_speed_key(*facts, cached.words, is_judged="length" in cached.key):
        say("measured before on this machine, with the same versions, network and data; --no-cache measures again")
        _name_judge(cached, request, say)
        return cached
    result = tune_speed(session, request, say)
    if not result.words and request.goal.kind != LATENCY:
        is_lost = any(not item["is_kept"] for item in result.details.get("judged", []))
        tried = "nothing that was tried" if result.skipped else "nothing"
        nothing = f"{tried} is better than the line as it is for --goal {request.goal}"
        say(nothing + (" and keeps the accuracy" if is_lost else ""))
    is_judged = any(item["is_kept"] for item in result.details.get("judged", []))
    tuned_key = make_speed_key(*facts, result.words, is_judged=is_judged)
    tuned = TunedSettings(tuple(result.words), tuned_key, make_evidence(result))
    _name_judge(tuned, request, say)
    if result.is_final and is_kept:
        cache_settings(tuned, key, question)
    return tuned


def make_question(session: Session, request: SpeedRequest) -> dict[str, Any]:
    """Return the question that a result answers: the options, the threads and the whole configuration.

    Its name, its folder, its seed and its logging are left out.
    """
    config = {name: value for name, value in session.config.resolved.items() if name not in _IGNORED_KEYS}
    return {**request.as_question(), "threads": session.plan.threads, "config": compute_json_digest(config)}


def _name_judge(tuned: TunedSettings, request: SpeedRequest, say: Say) -> None:
    """Name the command that judges settings which change the numbers; pairs of runs to a value have judged theirs."""
    final = tuned.evidence.get("final") or {}
    is_judged = request.margin is not None or request.goal.kind == "time_to"
    if tuned.words and final.get("grade") == SpeedGrade.STATISTICAL.value and not is_judged:
        command = make_prove_command(request.line, tuned.words)
        option = "--margin M, or with: " if request.goal.kind == "throughput" else ""
        say(f"this trains differently; judge the accuracy with {option}{command}")
