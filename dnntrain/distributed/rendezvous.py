"""Exchange messages between ranks through the store of the rendezvous.

The store answers even if a collective hangs. A rank that fails writes a `Failure` to the store, and
every other rank ends with the message and exit code of that failure.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from torch.distributed import DistError, DistNetworkError
from torch.distributed.distributed_c10d import Store

from dnntrain.distributed.failure import Failure, get_first_line
from dnntrain.distributed.signed_store import SignedStore
from dnntrain.distributed.store import connect_to_store
from dnntrain.errors import ConfigError, RankError
from dnntrain.utils.world import World

Value = TypeVar("Value")

#: Seconds within which all ranks must join, and least time that a rank waits for the preparation of others.
JOIN_TIMEOUT_S = 600.0

#: Seconds after which a store that does not answer counts as lost.
ANSWER_TIMEOUT_S = 5.0

_POLL_RANGE_S = (0.005, 0.2)


class Rendezvous:
    """The rendezvous of the ranks of a run at a store.

    All keys have a prefix of this round, so that a restart never reads keys of an earlier round.
    """

    def __init__(self, root: SignedStore, store: SignedStore, world: World) -> None:
        self.root = root
        self.store = store
        self.world = world
        self._silent = False
        self._wait_s = JOIN_TIMEOUT_S

    def allow_silence(self, timeout_s: float) -> None:
        """Wait at least `timeout_s` seconds for ranks that prepare, such as their data."""
        self._wait_s = max(JOIN_TIMEOUT_S, timeout_s)

    @classmethod
    def join(cls, world: World, timeout_s: float = JOIN_TIMEOUT_S) -> Rendezvous:
        """Wait for all ranks. Raises RankError if some do not join within `timeout_s`."""
        try:
            root = SignedStore(connect_to_store(world, timeout_s))
            token = _admit_ranks(root, world, timeout_s) if world.is_main else _greet_main(root, world, timeout_s)
        except DistError as error:
            address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise RankError(
                f"rank {world.rank} cannot reach the main rank's store at {address}: {get_first_line(error)}",
                "check that the nodes can reach that address, and that no firewall blocks it",
            ) from None
        return cls(root, root.with_prefix(f"dnntrain/{token}"), world)

    @property
    def raw_store(self) -> Store:
        """The store of this round for a process group, which signs nothing."""
        return self.store.raw

    def put(self, key: str, data: bytes) -> None:
        self.store.set(key, data)

    def get(self, key: str, timeout_s: float | None = None) -> bytes:
        """Wait for `key` and return its value.

        Raises the error of a rank that fails meanwhile.
        """
        self._wait_for_keys([key], timeout_s)
        return self.store.get(key)

    def broadcast_from_main(self, name: str, make_value: Callable[[], bytes]) -> bytes:
        """Return the result of the main rank's `make_value` on every rank."""
        if self.world.is_main:
            self.put(f"main/{name}", make_value())
        return self.get(f"main/{name}")

    def run_on_all_ranks(self, name: str, body: Callable[[], Value]) -> Value:
        """Run `body` on all ranks and return its result if it succeeds on all of them.

        Otherwise all ranks raise the error of the lowest rank that failed.
        """
        try:
            value, failure_data = body(), b""
        except Exception as error:
            value, failure_data = None, Failure.from_error(error, self.world.rank).to_bytes()
        self.put(f"{name}/{self.world.rank}", failure_data or b"well")
        replies = self._get_from_all(name)
        failures = [Failure.from_bytes(data) for data in replies if data != b"well"]
        if failures:
            with_rank = len({failure.message for failure in failures}) > 1 or len(failures) < self.world.size
            self.report_failure(failures[0])
            raise failures[0].to_exception(with_rank)
        return value  # type: ignore[return-value]

    def check_agreement(self, subject: str, facts: Mapping[str, str]) -> None:
        """Check that all ranks have the same `facts`.

        Raises ConfigError on every rank, which names each fact that differs from the main rank.
        """
        self.put(f"agree/{subject}/{self.world.rank}", json.dumps({**facts, "host": socket.gethostname()}).encode())
        rank_facts = [json.loads(data) for data in self._get_from_all(f"agree/{subject}")]
        differences = [
            f"{key} is {rank_facts[0].get(key)} on rank 0 ({rank_facts[0]['host']}) and "
            f"{other.get(key)} on rank {rank} ({other['host']})"
            for key in facts
            for rank, other in enumerate(rank_facts)
            if other.get(key) != rank_facts[0].get(key)
        ]
        if differences:
            error = ConfigError(
                f"the ranks differ in their {subject}: " + "; ".join(differences[:8]),
                "give every node the same environment, configuration and data",
            )
            self.report_failure(Failure.from_error(error, 0))
            raise error

    def report_failure(self, failure: Failure) -> Failure:
        """Write `failure` unless there is an earlier one; return the earliest."""

        def post_failure() -> Failure:
            return Failure.from_bytes(self.store.set_if_absent("failure", failure.to_bytes()))

        return self._call_with_timeout(post_failure, failure)

    def wait_for_failure(self, wait_s: float = 0.0) -> Failure | None:
        """Wait at most `wait_s` for a failure of any rank and return the first.

        Returns None if there is no failure or if the store is lost.
        """
        deadline = time.monotonic() + wait_s

        def read_failure() -> Failure | None:
            while not self.store.check(["failure"]):
                if time.monotonic() >= deadline:
                    return None
                time.sleep(0.05)
            return Failure.from_bytes(self.store.get("failure"))

        return self._call_with_timeout(read_failure, None, wait_s + ANSWER_TIMEOUT_S)

    def leave(self) -> None:
        """Report that this rank does not need the store any longer.

        The main rank may host the store, so it waits for the other ranks for some seconds.
        """
        failure = self.wait_for_failure()
        wait_s = 1.0 if failure is not None and failure.kind in ("lost", "hung") else 10.0

        def wait_for_others() -> None:
            self.put(f"left/{self.world.rank}", b"1")
            keys = [f"left/{rank}" for rank in range(self.world.size)]
            deadline = time.monotonic() + wait_s
            while self.world.is_main and not self.store.check(keys) and time.monotonic() < deadline:
                time.sleep(0.05)

        self._call_with_timeout(wait_for_others, None, wait_s + ANSWER_TIMEOUT_S)

    def mark_done(self) -> None:
        """Report that this rank ends, either well or after it has reported its failure."""
        self._call_with_timeout(lambda: self.put(f"done/{self.world.rank}", b"1"), None)

    def _call_with_timeout(
        self, body: Callable[[], Value], default: Value, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> Value:
        """Return the result of `body`, or `default` if the store does not answer.

        A call to the store over a broken link blocks forever.
        """
        if self._silent:
            return default
        result = [default]

        def run_body() -> None:
            with suppress(DistError, RuntimeError, RankError):
                result[0] = body()

        thread = threading.Thread(target=run_body, daemon=True)
        thread.start()
        thread.join(timeout_s)
        self._silent = thread.is_alive()
        return result[0]

    def _get_from_all(self, name: str) -> list[bytes]:
        keys = [f"{name}/{rank}" for rank in range(self.world.size)]
        self._wait_for_keys(keys)
        return [self.store.get(key) for key in keys]

    def _wait_for_keys(self, keys: list[str], timeout_s: float | None = None) -> None:
        """Poll for `keys`, so that signals and failures of other ranks end the wait."""
        timeout_s = self._wait_s if timeout_s is None else timeout_s
        deadline, pause = time.monotonic() + timeout_s, _POLL_RANGE_S[0]
        try:
            while not self.store.check(keys):
                if self.store.check(["failure"]):
                    raise Failure.from_bytes(self.store.get("failure")).to_exception()
                if time.monotonic() > deadline:
                    missing = [key for key in keys if not self.store.check([key])]
                    raise RankError(
                        f"rank {self.world.rank} waited {timeout_s:g} s for {', '.join(missing[:8])}",
                        "if the preparation of a rank takes longer, set a greater launch.hang_timeout",
                    )
                time.sleep(pause)
                pause = min(2 * pause, _POLL_RANGE_S[1])
        except DistNetworkError as error:
            raise RankError(f"rank {self.world.rank} lost the main rank's store: {get_first_line(error)}") from None


def _admit_ranks(root: SignedStore, world: World, timeout_s: float) -> str:
    """Admit all ranks as the main rank and return the token of this round.

    Each rank greets with a nonce, and the answer repeats the nonce.
    """
    token = secrets.token_hex(8)
    root.set("dnntrain/token", token.encode())
    pending_ranks = set(range(1, world.size))
    deadline = time.monotonic() + timeout_s
    while pending_ranks:
        for rank in sorted(pending_ranks):
            key = f"dnntrain/{token}/hello/{rank}"
            if root.check([key]):
                root.set(f"dnntrain/{token}/welcome/{rank}", root.get(key))
                pending_ranks.discard(rank)
        if pending_ranks and time.monotonic() > deadline:
            missing = ", ".join(str(rank) for rank in sorted(pending_ranks)[:16])
            raise RankError(
                f"{len(pending_ranks)} of {world.size} ranks did not join within {timeout_s:g} s: {missing}"
            )
        if pending_ranks:
            time.sleep(0.01)
    return token


def _greet_main(root: SignedStore, world: World, timeout_s: float) -> str:
    """Greet the main rank as another rank and return the token of this round.

    A token of an earlier round gets no answer with this nonce, so the token is read again.
    """
    nonce = secrets.token_hex(8)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if root.check(["dnntrain/token"]):
            token = root.get("dnntrain/token").decode()
            root.set(f"dnntrain/{token}/hello/{world.rank}", nonce.encode())
            answer_key = f"dnntrain/{token}/welcome/{world.rank}"
            if root.check([answer_key]) and root.get(answer_key).decode() == nonce:
                return token
        time.sleep(0.02)
    raise RankError(f"rank {world.rank} got no answer from the main rank within {timeout_s:g} s")
