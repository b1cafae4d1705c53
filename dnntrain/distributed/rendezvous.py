"""What ranks say to each other besides collectives: through the store of the rendezvous, which answers also where a collective hangs.

A rank that fails leaves a `Failure` there; every other rank ends with that one's message and exit code.
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
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TypeVar

from torch.distributed import DistError, DistNetworkError
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from dnntrain.errors import ConfigError, DnntrainError, RankError, error_of, full_disk
from dnntrain.utils.world import World

Value = TypeVar("Value")

#: Seconds that ranks may take to come together, one after the other.
JOIN_S = 600.0

#: Seconds in which the store answers, if it does at all.
_ANSWER_S = 5.0

_POLL_S = (0.005, 0.2)


@dataclass(frozen=True)
class Failure:
    """Why a run of several ranks ends: `rank` failed on `host`. `kind`: error (the user's to mend), bug, lost or hung."""

    rank: int
    host: str
    kind: str
    exit_code: int
    message: str
    hint: str = ""
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException, rank: int) -> Failure:
        """The failure of this rank by `error`."""
        import traceback

        host = socket.gethostname()
        error = full_disk(error) or error
        if isinstance(error, DnntrainError):
            kind = "lost" if isinstance(error, RankError) else "error"
            return cls(rank, host, kind, error.exit_code, error.message, error.hint)
        text = "".join(traceback.format_exception(error)).rstrip()
        return cls(rank, host, "bug", 1, f"{type(error).__name__}: {error}", traceback=text)

    def error(self, told: bool = True) -> DnntrainError:
        """The exception that every rank ends with; a bug shows its traceback last."""
        if self.kind == "bug":
            return RankError(f"rank {self.rank} on {self.host} ended by an error:\n{self.traceback}")
        where = f"rank {self.rank} on {self.host}: " if told and self.kind == "error" and self.exit_code < 10 else ""
        return error_of(self.exit_code, where + self.message, self.hint)

    def as_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Failure:
        return cls(**json.loads(data))


class Meeting:
    """The ranks of one run, met at the store. Keys are under a prefix of this round, so that a restart never reads what was left."""

    def __init__(self, root: Store, store: Store, world: World) -> None:
        self.root = root
        self.store = store
        self.world = world
        self._silent = False

    @classmethod
    def join(cls, world: World, timeout_s: float = JOIN_S) -> Meeting:
        """Waits for all ranks. Raises RankError where they do not come together in `timeout_s`."""
        try:
            wait = timedelta(seconds=timeout_s)
            root, _, _ = next(iter(rendezvous("env://", world.rank, world.size, timeout=wait)))
            token = _welcome(root, world, timeout_s) if world.is_main else _hello(root, world, timeout_s)
        except DistError as error:
            address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise RankError(
                f"rank {world.rank} cannot reach the main rank's store at {address}: {_first_line(error)}",
                "check that the nodes reach each other at that address, and that no firewall stands between them",
            ) from None
        return cls(root, PrefixStore(f"dnntrain/{token}", root), world)

    def put(self, key: str, data: bytes) -> None:
        self.store.set(key, data)  # type: ignore[arg-type]

    def get(self, key: str, timeout_s: float = JOIN_S) -> bytes:
        """The value of `key`, once it is there. Raises the error of a rank that failed meanwhile."""
        self._await([key], timeout_s)
        return self.store.get(key)

    def from_main(self, name: str, value: Callable[[], bytes]) -> bytes:
        """What the main rank's `value` gives, on every rank."""
        if self.world.is_main:
            self.put(f"main/{name}", value())
        return self.get(f"main/{name}")

    def together(self, name: str, body: Callable[[], Value]) -> Value:
        """What `body` returns, once it has succeeded on all ranks; where it fails on any, all raise the lowest such rank's error."""
        try:
            value, failed = body(), b""
        except Exception as error:
            value, failed = None, Failure.of(error, self.world.rank).as_bytes()
        self.put(f"{name}/{self.world.rank}", failed or b"well")
        found = self._of_all(name)
        failures = [Failure.from_bytes(data) for data in found if data != b"well"]
        if failures:
            told = len({failure.message for failure in failures}) > 1 or len(failures) < self.world.size
            self.fail(failures[0])
            raise failures[0].error(told)
        return value  # type: ignore[return-value]

    def agree(self, what: str, facts: Mapping[str, str]) -> None:
        """Raises ConfigError on every rank, naming each of `facts` in which ranks differ from the main one."""
        self.put(f"agree/{what}/{self.world.rank}", json.dumps({**facts, "host": socket.gethostname()}).encode())
        found = [json.loads(data) for data in self._of_all(f"agree/{what}")]
        differing = [
            f"{key} is {found[0].get(key)} on rank 0 ({found[0]['host']}) and "
            f"{other.get(key)} on rank {rank} ({other['host']})"
            for key in facts
            for rank, other in enumerate(found)
            if other.get(key) != found[0].get(key)
        ]
        if differing:
            error = ConfigError(
                f"the ranks differ in their {what}: " + "; ".join(differing[:8]),
                "give every node the same environment, configuration and data",
            )
            self.fail(Failure.of(error, 0))
            raise error

    def fail(self, failure: Failure) -> Failure:
        """Leaves `failure` for all ranks, unless another was there first; returns the first."""

        def leave() -> Failure:
            return Failure.from_bytes(self.store.compare_set("failure", "", failure.as_bytes().decode()))

        return self._bounded(leave, failure)

    def failure(self, wait_s: float = 0.0) -> Failure | None:
        """The first failure of any rank, waited for at most `wait_s`; None where there is none or the store is gone."""
        end = time.monotonic() + wait_s

        def find() -> Failure | None:
            while not self.store.check(["failure"]):
                if time.monotonic() >= end:
                    return None
                time.sleep(0.05)
            return Failure.from_bytes(self.store.get("failure"))

        return self._bounded(find, None, wait_s + _ANSWER_S)

    def left(self) -> None:
        """Says that this rank has read what it needs. The main rank, which may be the store's host, waits for those that still can."""
        failure = self.failure()
        wait_s = 1.0 if failure is not None and failure.kind in ("lost", "hung") else 10.0

        def leave() -> None:
            count = self.store.add("left", 1)
            end = time.monotonic() + wait_s
            while self.world.is_main and count < self.world.size and time.monotonic() < end:
                time.sleep(0.05)
                count = self.store.add("left", 0)

        self._bounded(leave, None, wait_s + _ANSWER_S)

    def done(self) -> None:
        """Says that this rank ends well, or has said why not."""
        self._bounded(lambda: self.put(f"done/{self.world.rank}", b"1"), None)

    def _bounded(self, body: Callable[[], Value], otherwise: Value, within_s: float = _ANSWER_S) -> Value:
        """What `body` returns; `otherwise` where the store does not answer: a call to it over a cut link blocks for good."""
        if self._silent:
            return otherwise
        found = [otherwise]

        def run() -> None:
            with suppress(DistError, RuntimeError):
                found[0] = body()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(within_s)
        self._silent = thread.is_alive()
        return found[0]

    def _of_all(self, name: str) -> list[bytes]:
        keys = [f"{name}/{rank}" for rank in range(self.world.size)]
        self._await(keys, JOIN_S)
        return [self.store.get(key) for key in keys]

    def _await(self, keys: list[str], timeout_s: float) -> None:
        """Polls, so that signals are heard and a failure of another rank ends the wait."""
        end, pause = time.monotonic() + timeout_s, _POLL_S[0]
        try:
            while not self.store.check(keys):
                if self.store.check(["failure"]):
                    raise Failure.from_bytes(self.store.get("failure")).error()
                if time.monotonic() > end:
                    missing = [key for key in keys if not self.store.check([key])]
                    raise RankError(f"rank {self.world.rank} waited {timeout_s:g} s for {', '.join(missing[:8])}")
                time.sleep(pause)
                pause = min(2 * pause, _POLL_S[1])
        except DistNetworkError as error:
            raise RankError(f"rank {self.world.rank} lost the main rank's store: {_first_line(error)}") from None


def _welcome(root: Store, world: World, timeout_s: float) -> str:
    """The main rank's side of coming together: a token of this round; every rank's greeting is answered with its own nonce."""
    token = secrets.token_hex(8)
    root.set("dnntrain/token", token)
    waiting = set(range(1, world.size))
    end = time.monotonic() + timeout_s
    while waiting:
        for rank in sorted(waiting):
            key = f"dnntrain/{token}/hello/{rank}"
            if root.check([key]):
                root.set(f"dnntrain/{token}/welcome/{rank}", root.get(key).decode())
                waiting.discard(rank)
        if waiting and time.monotonic() > end:
            missing = ", ".join(str(rank) for rank in sorted(waiting)[:16])
            raise RankError(f"{len(waiting)} of {world.size} ranks did not come within {timeout_s:g} s: {missing}")
        if waiting:
            time.sleep(0.01)
    return token


def _hello(root: Store, world: World, timeout_s: float) -> str:
    """The other ranks' side. A token that an earlier round has left is not answered with this nonce, and is read again."""
    nonce = secrets.token_hex(8)
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if root.check(["dnntrain/token"]):
            token = root.get("dnntrain/token").decode()
            root.set(f"dnntrain/{token}/hello/{world.rank}", nonce)
            answer = f"dnntrain/{token}/welcome/{world.rank}"
            if root.check([answer]) and root.get(answer).decode() == nonce:
                return token
        time.sleep(0.02)
    raise RankError(f"rank {world.rank} was not answered by the main rank within {timeout_s:g} s")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
