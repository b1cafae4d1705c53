"""Ranks that meet at a store: what one of them meets, all are told. Each rank is a thread with a connection of its own."""

from __future__ import annotations

import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from torch.distributed import TCPStore

from dnntrain.distributed import rendezvous
from dnntrain.distributed.failure import Failure
from dnntrain.distributed.rendezvous import Rendezvous
from dnntrain.errors import CheckpointError, ConfigError, DataError, RankError
from dnntrain.utils.world import World


def on_ranks(size: int, body: Callable[[Rendezvous], Any]) -> list[Any]:
    """What `body` returns or raises on each rank."""

    def rank(number: int) -> Any:
        try:
            return body(Rendezvous.join(World(number, size, number, is_launched=True), timeout_s=20))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(rank, range(size)))


def test_a_full_disk_of_one_rank_is_told_as_one_and_no_bug() -> None:
    error = Failure.from_error(OSError(errno.ENOSPC, "No space left on device", "/run/log.txt"), 1).to_exception()
    assert isinstance(error, CheckpointError)
    assert error.message.endswith("No space left on device: /run/log.txt")
    assert isinstance(Failure.from_error(OSError(errno.EACCES, "Permission denied"), 1).to_exception(), RankError)


def test_what_fails_on_one_rank_ends_all_with_its_error(host: TCPStore) -> None:
    def body(meeting: Rendezvous) -> None:
        def look() -> int:
            if meeting.world.rank == 1:
                raise DataError("the disk is empty", "fill it")
            return 1

        meeting.run_on_all_ranks("data", look)

    ended = on_ranks(3, body)
    assert [type(error) for error in ended] == [DataError] * 3
    assert all("rank 1" in error.message and "the disk is empty" in error.message for error in ended)
    assert all(error.hint == "fill it" for error in ended)


def test_an_error_that_all_ranks_meet_names_no_rank(host: TCPStore) -> None:
    def look() -> None:
        raise ConfigError("no such model")

    ended = on_ranks(2, lambda meeting: meeting.run_on_all_ranks("plan", look))
    assert [error.message for error in ended] == ["no such model"] * 2


def test_a_bug_of_one_rank_is_shown_with_its_traceback(host: TCPStore) -> None:
    def body(meeting: Rendezvous) -> None:
        def look() -> None:
            if meeting.world.rank == 1:
                raise KeyError("weight")

        meeting.run_on_all_ranks("model", look)

    ended = on_ranks(2, body)
    assert [type(error) for error in ended] == [RankError] * 2
    assert str(ended[0]).splitlines()[-1] == "KeyError: 'weight'"


def test_ranks_that_differ_are_told_in_what(host: TCPStore) -> None:
    ended = on_ranks(
        2, lambda meeting: meeting.check_agreement("versions", {"torch": f"2.{meeting.world.rank}", "python": "3"})
    )
    assert [type(error) for error in ended] == [ConfigError] * 2
    for error in ended:
        assert "torch is 2.0 on rank 0" in error.message
        assert "2.1 on rank 1" in error.message
        assert "python" not in error.message


def test_the_main_ranks_value_reaches_all(host: TCPStore) -> None:
    values = on_ranks(2, lambda meeting: meeting.broadcast_from_main("x", lambda: b"%d" % meeting.world.rank))
    assert values == [b"0", b"0"]


def test_a_restart_reads_nothing_of_the_round_before(host: TCPStore) -> None:
    first = on_ranks(2, lambda meeting: meeting.report_failure(Failure(1, "a", "lost", 1, "gone")))
    assert [failure.message for failure in first] == ["gone", "gone"]
    assert on_ranks(2, lambda meeting: meeting.wait_for_failure()) == [None, None]


def test_the_first_failure_stands(host: TCPStore) -> None:
    def body(meeting: Rendezvous) -> Failure:
        if meeting.world.rank:
            meeting.wait_for_failure(wait_s=10)
        return meeting.report_failure(Failure(meeting.world.rank, "a", "error", 3, f"by {meeting.world.rank}"))

    assert [failure.message for failure in on_ranks(2, body)] == ["by 0", "by 0"]


def test_ranks_that_do_not_come_are_named(host: TCPStore) -> None:
    with pytest.raises(RankError, match=r"1 of 2 ranks did not join within 0\.3 s: 1"):
        Rendezvous.join(World(0, 2, 0, is_launched=True), timeout_s=0.3)


def test_a_rank_waits_for_the_preparation_of_others_as_long_as_the_longer_limit(
    host: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "JOIN_TIMEOUT_S", 0.05)
    meeting = Rendezvous.join(World(0, 1, 0, is_launched=True), 5.0)
    meeting.allow_silence(0.01)
    with pytest.raises(RankError, match=r"waited 0\.05 s for late"):
        meeting.get("late")
    meeting.allow_silence(0.2)
    with pytest.raises(RankError, match=r"waited 0\.2 s for late") as caught:
        meeting.get("late")
    assert "launch.hang_timeout" in str(caught.value.hint)
