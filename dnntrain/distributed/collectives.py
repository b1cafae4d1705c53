"""Sum and gather tensors and bytes over all ranks.

Without a process group, each operation returns the value of the single process.
"""

from __future__ import annotations

import gc
import os
import socket
import struct
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import Store

from dnntrain.distributed.store import connect_to_store
from dnntrain.utils._torch_private import release_groups
from dnntrain.utils.loopback import LOOPBACK_ADDRESS, is_single_machine
from dnntrain.utils.world import World

#: Linux: the address of a network interface, netdevice(7).
_SIOCGIFADDR = 0x8915

#: The root meshes whose groups exist.
_meshes: list[DeviceMesh] = []


def join_process_group(
    world: World, device: str, store: Store | None = None, timeout_s: float = 600.0, force_group: bool = False
) -> None:
    """Join the process group that torchrun describes: NCCL for CUDA, gloo otherwise.

    A process that torchrun did not start needs no group, unless it runs a layout of degree 1
    (`force_group`).

    store        the store of a previous rendezvous of the ranks, if any
    timeout_s    seconds after which a collective fails if not all ranks have joined it
    """
    if dist.is_initialized():
        return
    if not world.is_launched:
        if force_group:
            dist.init_process_group(_select_backend(device), store=HashStore(), rank=0, world_size=1)
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(world.local_rank)
    set_network_interfaces(device)
    dist.init_process_group(
        _select_backend(device),
        timeout=timedelta(seconds=timeout_s),
        store=store or connect_to_store(world, timeout_s),
        rank=world.rank,
        world_size=world.size,
    )


def set_network_interfaces(device: str) -> None:
    """Choose the network interface that gloo and NCCL listen on.

    On one machine it is the loopback interface, whatever the environment says. On several it is
    the one that reaches the main rank, or the one that the environment names. gloo's default may be
    wrong there, because the name of a host may resolve to the loopback interface.
    """
    if is_single_machine():
        loopback = find_interface(LOOPBACK_ADDRESS) or "lo"
        os.environ.update(GLOO_SOCKET_IFNAME=loopback, NCCL_SOCKET_IFNAME=f"={loopback}")
    elif "GLOO_SOCKET_IFNAME" not in os.environ and not device.startswith("cuda"):
        name = find_interface(os.environ.get("MASTER_ADDR", ""))
        if name is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = name


def find_interface(address: str) -> str | None:
    """Return the interface that reaches `address` over IPv4, or None."""
    try:
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            local_address = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                request = struct.pack("256s", name.encode()[:15])
                try:
                    reply = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                except OSError:
                    continue
                if socket.inet_ntoa(reply[20:24]) == local_address:
                    return name
    except (OSError, ImportError):
        return None
    return None


def _select_backend(device: str) -> str:
    # With a GPU both backends are needed: checkpoints of FSDP use collectives of host tensors.
    return "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"


def leave_process_group() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
        # gloo's threads poll until their group is freed: each run in one process would add a dozen.
        # Caches of torch hold each mesh with its groups; modules hold them in reference cycles.
        while _meshes:
            release_groups(_meshes.pop())
        gc.collect()


def remember_mesh(mesh: DeviceMesh) -> None:
    """Let `leave_process_group` free the groups of `mesh`, a root mesh."""
    _meshes.append(mesh)


def reduce_sum(tensor: Tensor) -> Tensor:
    """Sum `tensor` over all ranks in place and return it."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather_tensors(tensor: Tensor, device: str, group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """Return the `tensor` of each rank, in the order of ranks.

    All ranks must have the same shape. `group` holds all ranks; None is the default group.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [tensor]
    device_tensor = tensor.to(device)
    rank_tensors = [torch.empty_like(device_tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(rank_tensors, device_tensor, group=group)
    return [item.to(tensor.device) for item in rank_tensors]


def reduce_any(flag: bool, device: str) -> bool:
    """Return True on every rank if `flag` is set on any rank."""
    return reduce_any_flags((flag,), device)[0]


def reduce_any_flags(flags: Sequence[bool], device: str) -> list[bool]:
    """Return for each of `flags`, on every rank, whether it is set on any rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return list(flags)
    return [count > 0 for count in reduce_sum(torch.tensor(flags, dtype=torch.float32, device=device)).tolist()]


def gather_bytes(data: bytes, device: str, group: dist.ProcessGroup | None = None) -> list[bytes]:
    """Return the `data` of each rank, in the order of ranks, without pickle."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [data]
    sizes = [int(size) for size in gather_tensors(torch.tensor([len(data)]), device, group)]
    buffer = torch.zeros(max(sizes), dtype=torch.uint8)
    buffer[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    rows = gather_tensors(buffer, device, group)
    return [bytes(row[:size].numpy()) for row, size in zip(rows, sizes, strict=True)]


def make_background_gather() -> Callable[[bytes], list[bytes]]:
    """Return `gather_bytes` for a thread: it has a group of its own, since each group runs in one order.

    All ranks must call this.
    """
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    return partial(gather_bytes, device="cpu", group=group)
