"""Authenticate the values that ranks exchange through a store.

torch's store has no authentication: every user of the machine can connect to a port on its loopback
interface. So each value carries an HMAC-SHA256 of its key and itself. The secret reaches the ranks
in their environment, which other users cannot read.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from typing import Final

from torch.distributed.distributed_c10d import PrefixStore, Store

from dnntrain.errors import RankError

#: The environment variable of the secret. Without it the ranks' values are not protected.
SECRET_VARIABLE: Final = "DNNTRAIN_SECRET"

_SIGNATURE_BYTES = 64


class SignedStore:
    """A store whose values are signed with the secret of the run."""

    def __init__(self, raw: Store, secret: bytes | None = None, prefix: str = "") -> None:
        self.raw = raw if not prefix else PrefixStore(prefix, raw)
        self._root = raw
        self._prefix = prefix
        self._secret = os.environ.get(SECRET_VARIABLE, "").encode() if secret is None else secret

    def with_prefix(self, prefix: str) -> SignedStore:
        """Return the part of the store whose keys begin with `prefix`."""
        return SignedStore(self._root, self._secret, prefix)

    def clone(self) -> SignedStore:
        """Return the same store over a connection of its own."""
        return SignedStore(self._root.clone(), self._secret, self._prefix)

    def set(self, key: str, data: bytes) -> None:
        self.raw.set(key, self._sign(key, data))  # type: ignore[arg-type]

    def get(self, key: str) -> bytes:
        """Return the value of `key`. Raises RankError if no rank of this run has written it."""
        return self._verify(key, self.raw.get(key))

    def check(self, keys: Sequence[str]) -> bool:
        return self.raw.check(list(keys))

    def set_if_absent(self, key: str, data: bytes) -> bytes:
        """Write `data` unless `key` has a value; return the value that it then has."""
        return self._verify(key, self.raw.compare_set(key, "", self._sign(key, data).decode()))

    def _sign(self, key: str, data: bytes) -> bytes:
        return self._make_signature(key, data) + data

    def _verify(self, key: str, signed: bytes) -> bytes:
        signature, data = signed[:_SIGNATURE_BYTES], signed[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._make_signature(key, data)):
            raise RankError(
                f"the value of {key!r} in the store of the ranks does not come from a rank of this run",
                f"all ranks must have the same {SECRET_VARIABLE}; another process may have written to their port",
            )
        return data

    def _make_signature(self, key: str, data: bytes) -> bytes:
        message = f"{self._prefix}/{key}\0".encode() + data
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest().encode()
