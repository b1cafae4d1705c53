"""The few things that ranks say to each other: sums of tensors, and bytes from the main rank. Without a group they are the identity."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from dnntrain.world import World


def start(world: World, device: str) -> None:
    """Joins the process group that torchrun describes: NCCL for CUDA, gloo else. One process that torchrun did not start needs none."""
    if not world.launched or dist.is_initialized():
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(world.local_rank)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")


def stop() -> None:
    """Leaves the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def reduce_sum(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all ranks, on every rank."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather(tensor: Tensor, device: str) -> list[Tensor]:
    """`tensor`, of one shape on all ranks, as each rank has it, in the order of ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [tensor]
    own = tensor.to(device)
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    return [item.to(tensor.device) for item in found]


def any_rank(flag: bool, device: str) -> bool:
    """True on every rank where `flag` is set on any."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return flag
    return bool(reduce_sum(torch.tensor(float(flag), device=device)))


def broadcast_bytes(data: bytes, device: str) -> bytes:
    """The main rank's `data`, on every rank. Bytes, never pickled objects."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return data
    size = torch.tensor([len(data)], device=device)
    dist.broadcast(size, 0)
    buffer = torch.empty(int(size), dtype=torch.uint8, device=device)
    if dist.get_rank() == 0:
        buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    dist.broadcast(buffer, 0)
    return bytes(buffer.cpu().numpy())
