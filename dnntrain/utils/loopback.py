"""Keep the sockets of a run on one machine on the loopback interface. Imports no torch."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from dnntrain.utils.world import read_local_size

LOOPBACK_ADDRESS = "127.0.0.1"

#: More than the ranks of any machine: all of them connect before the store serves the first.
_BACKLOG = 1024


def listen_on_loopback(port: int = 0) -> socket.socket:
    """Return a socket that listens on 127.0.0.1 alone; port 0 is a free one. Raises OSError."""
    return socket.create_server((LOOPBACK_ADDRESS, port), backlog=_BACKLOG)


def is_single_machine(environ: Mapping[str, str] | None = None) -> bool:
    """Return whether all ranks that torchrun's environment describes run on this machine.

    They do if this machine has as many ranks as the run, or if they meet at a loopback address.
    """
    environ = os.environ if environ is None else environ
    num_local_ranks = read_local_size(environ)
    if num_local_ranks and str(num_local_ranks) == environ.get("WORLD_SIZE"):
        return True
    host = environ.get("MASTER_ADDR", "").lower()
    return host in ("localhost", "::1") or host.startswith("127.")
