"""What each precision decides for each kind of hardware, and why."""

from __future__ import annotations

import pytest

from dnntrain.choices.precision.auto import AutoPrecision
from dnntrain.choices.precision.bf16 import Bf16
from dnntrain.choices.precision.fp16 import Fp16
from dnntrain.choices.precision.fp32 import Fp32
from dnntrain.utils.hardware import Hardware, probe_hardware


@pytest.mark.parametrize(
    ("hardware", "name", "reason"),
    [
        (Hardware(cpu_features=("avx2", "amx_bf16")), "bf16", "amx_bf16"),
        (Hardware(cpu_features=("avx512_bf16",), cpu_vendor="AuthenticAMD"), "bf16", "avx512_bf16"),
        (Hardware(cpu_features=("avx512_bf16", "amx_bf16"), cpu_vendor="GenuineIntel"), "bf16", "amx_bf16"),
        (Hardware(cpu_features=("avx512_bf16",), cpu_vendor="GenuineIntel"), "fp32", "no AMX"),
        (Hardware(cpu_features=("avx2", "avx512f")), "fp32", "neither AMX nor AVX512-bf16"),
        (Hardware("cuda", capability=(9, 0), device_name="H100"), "bf16", "H100"),
        (Hardware("cuda", capability=(7, 5), device_name="T4"), "fp16", "T4"),
        (Hardware("cuda", capability=(6, 1)), "fp32", "6.1"),
        (Hardware("mps"), "fp32", "mps"),
    ],
)
def test_auto_takes_what_the_hardware_computes_natively(hardware: Hardware, name: str, reason: str) -> None:
    policy = AutoPrecision().build(hardware)
    assert policy.name == name
    assert reason in policy.reason
    assert policy.uses_loss_scale == (name == "fp16")


def test_what_is_asked_for_is_given() -> None:
    hardware = Hardware()
    assert [choice.build(hardware).name for choice in (Fp32(), Bf16(), Fp16())] == ["fp32", "bf16", "fp16"]


def test_bf16_on_a_processor_without_it_is_said_to_be_slow() -> None:
    assert "slowly" in Bf16().build(Hardware(cpu_features=("avx2",))).reason
    intel = Hardware(cpu_features=("avx512_bf16",), cpu_vendor="GenuineIntel")
    assert "fp32 may be faster" in Bf16().build(intel).reason
    for native in ("amx_bf16", "bf16"):  # bf16: ARM
        assert Bf16().build(Hardware(cpu_features=(native,))).reason == "asked for"


def test_this_machine_is_detected() -> None:
    hardware = probe_hardware("cpu")
    assert hardware.cores >= 1
    assert hardware.memory_bytes > 2**28
    assert hardware.device == "cpu"
