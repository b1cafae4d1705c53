"""The listening sockets of processes, from the kernel's tables: /proc/net/tcp, /proc/net/tcp6 and the descriptors of each process."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_LISTEN = "0A"


def addresses_by_inode() -> dict[str, str]:
    """Socket inode → the address that it listens on, for all TCP sockets of this network namespace."""
    addresses = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN:
                addresses[fields[9]] = decode_address(fields[1].partition(":")[0])
    return addresses


def decode_address(digits: str) -> str:
    """An address of the kernel's tables, whose words are in the byte order of the machine."""
    words = [int(digits[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(digits), 8)]
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, b"".join(words))


def descendants(root: int) -> list[int]:
    """`root` and all processes below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def listening_addresses(process: int) -> set[str]:
    """The addresses on which a process listens now."""
    addresses = addresses_by_inode()
    found = set()
    with suppress(OSError):
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                target = str(descriptor.readlink())
                if target.startswith("socket:[") and target[8:-1] in addresses:
                    found.add(addresses[target[8:-1]])
    return found


def watch_sockets(processes: Mapping[str, subprocess.Popen[str]], timeout_s: float) -> dict[str, set[str]]:
    """Name and command line → addresses on which a process of these programs has listened, from now until all of them end."""
    seen: dict[str, set[str]] = {}
    end = time.monotonic() + timeout_s
    while any(process.poll() is None for process in processes.values()):
        assert time.monotonic() < end, "the programs have not ended"
        for started in processes.values():
            for process in descendants(started.pid):
                if addresses := listening_addresses(process):
                    with suppress(OSError):
                        line = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                        name = Path(f"/proc/{process}/comm").read_text().strip()
                        seen.setdefault(f"{name}: {line}", set()).update(addresses)
        time.sleep(0.1)
    return seen
