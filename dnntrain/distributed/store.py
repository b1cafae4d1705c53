"""Host the store at which ranks meet, and connect to it."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from functools import cache

from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from dnntrain.utils.loopback import LOOPBACK_ADDRESS, is_single_machine, listen_on_loopback
from dnntrain.utils.world import World


def host_store(listener: socket.socket) -> TCPStore:
    """Serve a store at `listener`, which becomes part of it.

    torch's own listening sockets are open on every interface.
    """
    port = listener.getsockname()[1]
    return TCPStore(LOOPBACK_ADDRESS, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


def connect_to_store(world: World, timeout_s: float) -> Store:
    """Return the store of the ranks that torchrun's environment describes.

    torchrun may host it; else the main rank does, on one machine at the loopback interface only.
    Raises DistError if it does not answer within `timeout_s`.
    """
    timeout = timedelta(seconds=timeout_s)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" or not is_single_machine():
        store: Store = next(iter(rendezvous("env://", world.rank, world.size, timeout=timeout)))[0]
        return store
    port = int(os.environ["MASTER_PORT"])
    if world.is_main:
        _host_on_loopback(port)
    return TCPStore(LOOPBACK_ADDRESS, port, is_master=False, timeout=timeout)


@cache
def _host_on_loopback(port: int) -> TCPStore:
    """Serve a store at `port` until this process ends: several runs in it may meet there."""
    return host_store(listen_on_loopback(port))
