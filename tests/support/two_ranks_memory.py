"""Two real ranks (gloo) that each decode half of a folder of images, and what each of them keeps."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from dnntrain.choices.data.image_folder import ImageFolder
from dnntrain.distributed import local_memory
from dnntrain.utils.world import World


def kept_by_two_ranks(folder: Path, images: Path, kind: str) -> list[list[int]]:
    """The numbers of the images that each rank has after both read their half.

    `kind` is "shared"; "machines", if each rank is the first of its machine; "hidden", if the second one cannot open
    the file of the first; or "other", if it finds the file of another process there.
    """
    mp.spawn(_rank, (str(folder), str(images), kind), nprocs=2)  # type: ignore[no-untyped-call]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def _hide(open_file: Any, address: Tensor, size_bytes: int) -> Any:
    return open_file(torch.tensor([2**22, *address[1:].tolist()]), size_bytes)


def _exchange(open_file: Any, address: Tensor, size_bytes: int) -> Any:
    descriptor, memory = local_memory._make_file(size_bytes, (1, 2))
    assert memory is not None
    return open_file(torch.tensor([os.getpid(), descriptor, *address[2:].tolist()]), size_bytes)


def _rank(rank: int, folder: str, images: str, kind: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    if rank == 1 and kind in ("hidden", "other"):
        change = _hide if kind == "hidden" else _exchange
        local_memory._open_file = partial(change, local_memory._open_file)
    source = ImageFolder(root=images, image_size=8, pipeline="cached").build().train
    world = World(rank, 2, 0 if kind == "machines" else rank, is_launched=True)
    source.open_cache(partial(local_memory.open_local_memory, world=world, device="cpu"))
    numbers = np.arange(len(source))
    for number in numbers[rank::2]:
        source.read(int(number))
    dist.barrier()
    kept = [int(number) for number in numbers if source.has_cached(numbers[number : number + 1])]
    assert all(torch.equal(source.read(number), source.decode(number)) for number in kept)
    Path(folder, f"{rank}.json").write_text(json.dumps(kept))
    dist.destroy_process_group()
