"""The census from oneDNN's own log: what it executed, in which numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dnntrain.export.onednn import measure_onednn_coverage, parse_log, trace_primitives
from dnntrain.export.op_coverage import OpCoverage, measure_torch_coverage

DEPTHWISE = (
    "onednn_verbose,v1,primitive,exec,cpu,convolution,brdgmm_dw:avx512_core,forward_inference,src:u8::blocked:acdb::f0 "
    "wei:s8:a:blocked:deAbc16a::f0 dst:u8::blocked:acdb::f0,attr-scratchpad:user,alg:convolution_direct,"
    "g16mb2_ic16oc16_ih64oh32kh3sh2dh0ph1_iw64ow32kw3sw2dw0pw1,0.018"
)
LINEAR = (
    "onednn_verbose,v1,primitive,exec,cpu,inner_product,brg_matmul:avx512_core,forward_inference,src:bf16::blocked:ab::f0 "
    "wei:bf16::blocked:AB16b64a::f0 dst:f32::blocked:ab::f0,attr-scratchpad:user,,mb2ic128oc10,0.002"
)
MATMUL = (
    "onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx512_core,undef,src:f32::blocked:abc::f0 "
    "wei:f32::blocked:abc::f0 dst:f32::blocked:abc::f0,,,3x64x32:1x32x10,0.01"
)
REORDER = (
    "onednn_verbose,v1,primitive,exec,cpu,reorder,jit:blk,undef,src:f32::blocked:acdb::f0 "
    "dst:f32::blocked:Acdb16a::f0,attr-scratchpad:user,,16x3x3x3,0.001"
)


def test_a_line_of_the_log_gives_multiply_adds_and_their_number_format() -> None:
    found = list(parse_log("\n".join(["onednn_verbose,v1,info,cpu,isa:AVX-512", DEPTHWISE, LINEAR, MATMUL, REORDER])))
    assert [(item.kind, item.number_format, item.macs) for item in found] == [
        ("convolution", "int8", 2 * 16 * 32 * 32 * 9),
        ("inner_product", "bf16", 2 * 128 * 10),
        ("matmul", "fp32", 3 * 64 * 32 * 10),
        ("reorder", "fp32", 0),
    ]
    assert found[0].duration_ms == 0.018


def test_a_convolution_that_runs_is_seen_and_stdout_is_given_back(capfd: pytest.CaptureFixture[str]) -> None:
    layer = nn.Conv2d(4, 8, 3, padding=1).eval()
    found = trace_primitives(layer, torch.randn(2, 4, 10, 10))
    print("after")
    assert sum(item.macs for item in found) == 2 * 8 * 10 * 10 * 4 * 9
    assert capfd.readouterr().out == "after\n"


def test_what_onednn_did_not_run_is_counted_as_the_program_has_it() -> None:
    images = torch.randn(2, 4, 10, 10)
    model = nn.Conv2d(4, 8, 3, padding=1).eval()
    program = measure_torch_coverage(model, images)
    twice = OpCoverage({"fp32": 2 * program.total})
    assert measure_onednn_coverage(model, images, program).operators == {"onednn convolution": program.total}
    found = measure_onednn_coverage(model, images, twice)
    assert found.operators == {"onednn convolution": program.total, "outside oneDNN": program.total}
    assert found.get_share("fp32") == 1
