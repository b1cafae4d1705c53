"""Detect hardware: processor features, cores, memory, accelerators.

torch is imported by the functions that need it, so that settings can be checked before.
"""

from __future__ import annotations

import gc
import os
import platform
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dnntrain.errors import ConfigError
from dnntrain.utils.log_filters import hide_noise
from dnntrain.utils.memory_size import read_memory_bytes
from dnntrain.utils.world import World

#: Processor features that matter to training, as Linux names them.
_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "avx_vnni",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "bf16",
    "asimddp",
)


@dataclass(frozen=True)
class Hardware:
    """The hardware of a machine.

    `device` is the type of the training device (cpu, cuda, mps). `capability` of a CUDA device is
    (major, minor). `cpu_vendor` is that of an x86 processor, such as GenuineIntel. `memory_bytes` is
    the memory of the host that this process may use, 0 if it is unknown; `gpu_memory_bytes` the own
    memory of each CUDA device that ranks may get, in their order.
    """

    device: str = "cpu"
    device_count: int = 1
    device_name: str = ""
    capability: tuple[int, int] = (0, 0)
    cpu_model: str = ""
    cpu_features: tuple[str, ...] = ()
    cores: int = 1
    memory_bytes: int = 0
    cpu_vendor: str = ""
    gpu_memory_bytes: tuple[int, ...] = ()

    def get_device_memory_bytes(self, ranks: int) -> int:
        """Return the memory in bytes of the smallest device on which one of `ranks` computes; 0 if it is unknown."""
        if self.device != "cuda":
            return self.memory_bytes
        return min(self.gpu_memory_bytes[: max(ranks, 1)], default=0)

    @property
    def fast_bf16_feature(self) -> str:
        """The processor feature that multiplies bf16 matrices faster than float32 ones; empty if there is none.

        AMX does on all processors. AVX512-bf16 does on AMD's; on Intel's it takes up to twice the time
        of float32 (docs/benchmarks.md).
        """
        if "amx_bf16" in self.cpu_features:
            return "amx_bf16"
        has_fast_vectors = "avx512_bf16" in self.cpu_features and self.cpu_vendor != "GenuineIntel"
        return "avx512_bf16" if has_fast_vectors else ""


def probe_hardware(device: str = "auto") -> Hardware:
    """Detect the hardware, with `device` as the training device.

    `device` is auto, cpu, cuda, cuda:1 or mps. Raises ConfigError if the device is absent.
    """
    hide_noise()
    kind, count, name, capability = _detect_accelerator(device)
    model, features, vendor = _detect_processor()
    gpu_memory_bytes = _read_gpu_memory_bytes(device) if kind == "cuda" else ()
    return Hardware(
        kind, count, name, capability, model, features, count_cores(), read_memory_bytes(), vendor, gpu_memory_bytes
    )


def probe_hardware_without_torch(device: str) -> Hardware | None:
    """Return the hardware if it is known without torch: a CPU, since torch cannot use an accelerator.

    None if only torch knows. Raises ConfigError if the device is absent.
    """
    if device != "cpu" and may_have_accelerator():
        return None
    if device not in ("cpu", "auto"):
        raise make_absent_error(device)
    return probe_hardware("cpu")


def may_have_accelerator() -> bool:
    """Return whether torch may find an accelerator: it is built for one, and the driver is present."""
    from importlib.util import find_spec

    spec = find_spec("torch")
    if sys.platform != "linux" or spec is None or not spec.submodule_search_locations:
        return True
    try:
        text = (Path(spec.submodule_search_locations[0]) / "version.py").read_text(encoding="utf-8")
    except OSError:
        return True
    builds = dict(re.findall(r"^(cuda|hip)\b[^=\n]*= *(.+?) *$", text, re.MULTILINE))
    if builds.get("hip", "") != "None" or "cuda" not in builds:
        return True
    return builds["cuda"] != "None" and _has_cuda_driver()


def _has_cuda_driver() -> bool:
    """Return whether the library of the driver can be loaded, as the CUDA runtime does."""
    import ctypes

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def make_absent_error(device: str) -> ConfigError:
    """Return the error of a device that this machine does not have."""
    return ConfigError(f"device={device} is not on this machine", "use device=cpu or device=auto")


def get_device_type(device: str) -> str:
    """Return the type of a torch device, without its number: `cuda` for `cuda:1`."""
    return device.partition(":")[0]


def get_device_index(device: str) -> int:
    """Return the number of a torch device; 0 if `device` names none."""
    return int(device.partition(":")[2] or 0)


def has_vnni() -> bool:
    """Return whether the processor adds int8 products without overflow (VNNI, AMX).

    Without VNNI or AMX, weights are quantized to 7 bits.
    """
    return bool({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"} & set(_detect_processor()[1]))


def _detect_accelerator(device: str) -> tuple[str, int, str, tuple[int, int]]:
    if device == "cpu":
        return "cpu", 1, "", (0, 0)
    import torch

    if torch.cuda.is_available() and get_device_type(device) in ("auto", "cuda"):
        index = get_device_index(device)
        count = torch.cuda.device_count()
        if index >= count:
            raise ConfigError(
                f"device={device}: this machine has {count} CUDA devices", f"use cuda:0 … cuda:{count - 1}"
            )
        return "cuda", count, torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    if torch.backends.mps.is_available() and device in ("auto", "mps"):
        return "mps", 1, "Apple GPU", (0, 0)
    if device == "auto":
        return "cpu", 1, "", (0, 0)
    raise make_absent_error(device)


def _read_gpu_memory_bytes(device: str) -> tuple[int, ...]:
    """Return the memory of the CUDA device that `device` names, or of each one."""
    import torch

    has_index = ":" in device
    indices = [get_device_index(device)] if has_index else range(torch.cuda.device_count())
    return tuple(int(torch.cuda.get_device_properties(index).total_memory) for index in indices)


def _detect_processor() -> tuple[str, tuple[str, ...], str]:
    """Return (model name, features, vendor) from /proc/cpuinfo.

    No features and no vendor if it cannot be read.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), (), ""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        values.setdefault(key.strip(), value.strip())
    flags = set((values.get("flags") or values.get("Features") or "").split())
    features = tuple(name for name in _FEATURES if name in flags)
    return values.get("model name", platform.machine()), features, values.get("vendor_id", "")


def count_cores() -> int:
    """Return the number of processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks, so that steps reuse memory pages (mallopt(3)).

    Does nothing on other C libraries.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_max = -1, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def read_resident_bytes() -> int:
    """Return the resident memory of this process now, in bytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def read_peak_bytes(device: str) -> int:
    """Return the peak memory in bytes, of the GPU or else of the process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device)
    # Linux's ru_maxrss includes the memory of the process that started this one; VmHWM does not.
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def release_memory(device: str) -> None:
    """Free the memory of objects that nothing refers to, so that other processes can use it."""
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def get_torch_device(device_setting: str, hardware: Hardware, world: World) -> str:
    """Return the torch device of a rank.

    `device_setting` is auto, cpu, cuda:1 …; `hardware` is the hardware detected for it.
    """
    if hardware.device != "cuda":
        return hardware.device
    return f"cuda:{world.local_rank if world.is_launched else get_device_index(device_setting)}"


#: torch's own number of threads ("default"), and the number that `use_threads` set instead ("set").
_threads: dict[str, int] = {}


def use_threads(threads: int) -> None:
    """Compute with `threads` threads from now on."""
    import torch

    default = get_default_threads()
    torch.set_num_threads(threads)
    _threads.update(default=default, set=threads)


def get_default_threads() -> int:
    """Return torch's default thread count in this process, even after `use_threads`."""
    import torch

    threads = torch.get_num_threads()
    return _threads["default"] if threads == _threads.get("set") else threads
