"""Measure from oneDNN's own log which primitives ran.

The log also shows calls past torch's dispatcher, as AOTInductor makes them.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from dnntrain.export.op_coverage import OpCoverage


@dataclass(frozen=True)
class Primitive:
    """One primitive that was executed.

    kind           convolution, inner_product, matmul, reorder …
    number_format  format of its factors, as in a census: int8, bf16, fp16 or fp32
    macs           multiply-adds; 0 if it does none
    duration_ms    time of the call
    """

    kind: str
    number_format: str
    macs: int
    duration_ms: float


def trace_primitives(run: Callable[[Tensor], Tensor], inputs: Tensor) -> list[Primitive]:
    """Return the primitives of the second of two calls of `run`.

    The list is empty if torch was built without oneDNN.
    """
    backend: Any = torch.backends.mkldnn
    if not backend.is_available():
        return []
    with torch.no_grad():
        run(inputs)
        sys.stdout.flush()
        with tempfile.TemporaryFile() as log:
            # oneDNN writes to the descriptor of stdout, below Python.
            stdout_copy = os.dup(1)
            os.dup2(log.fileno(), 1)
            try:
                with backend.verbose(backend.VERBOSE_ON):
                    run(inputs)
            finally:
                os.dup2(stdout_copy, 1)
                os.close(stdout_copy)
            log.seek(0)
            return list(parse_log(log.read().decode(errors="replace")))


def parse_log(log: str) -> Iterator[Primitive]:
    """Yield the executed primitives of a log of ONEDNN_VERBOSE=1, version 1.

    A line is onednn_verbose,v1,primitive,exec,ENGINE,KIND,IMPLEMENTATION,PROPAGATION,TENSORS,
    ATTRIBUTES,AUXILIARY,SHAPES,MILLISECONDS.
    Source: oneDNN developer guide, "Verbose Mode".
    """
    for line in log.splitlines():
        fields = line.split(",")
        if fields[:4] == ["onednn_verbose", "v1", "primitive", "exec"] and len(fields) >= 13:
            kind, tensors, shapes = fields[5], fields[8], fields[-2]
            format_match = re.search(r"\bsrc(?:_\d+)?:(\w+)", tensors)
            name = _NUMBER_FORMATS.get(format_match[1], format_match[1]) if format_match else ""
            yield Primitive(kind, name, _count_macs(kind, shapes), float(fields[-1]))


_NUMBER_FORMATS = {"f32": "fp32", "f16": "fp16", "u8": "int8", "s8": "int8"}


def _count_macs(kind: str, shapes: str) -> int:
    if kind in ("convolution", "inner_product"):
        # As in g16mb2_ic16oc16_ih64oh32kh3sh2dh0ph1_iw64ow32kw3sw2dw0pw1
        size = {name: int(value) for name, value in re.findall(r"([a-z]+)(\d+)", shapes)}
        return (
            size["mb"]
            * (size["ic"] // size.get("g", 1))
            * size["oc"]
            * prod(size.get(name, 1) for name in ("od", "oh", "ow", "kd", "kh", "kw"))
            * (prod(size.get(name, 1) for name in ("id", "ih", "iw")) if kind == "inner_product" else 1)
        )
    if kind == "matmul":
        # As in 3x64x32:3x32x10
        left, right = ([int(size) for size in part.split("x")] for part in shapes.split(":")[:2])
        return prod(max(sizes) for sizes in zip(left[:-2], right[:-2], strict=True)) * left[-2] * left[-1] * right[-1]
    return 0


def measure_onednn_coverage(
    run: Callable[[Tensor], Tensor], inputs: Tensor, program_coverage: OpCoverage
) -> OpCoverage:
    """Return the operator coverage of `run` from the primitives that oneDNN executed.

    `program_coverage` is the coverage of the program that `run` was compiled from. Multiply-adds
    that oneDNN did not see (attention's fused products, a BLAS) are added in the program's own
    number format, because Inductor changes none. Their operator is "outside oneDNN".
    """
    macs: dict[str, float] = {}
    operators: dict[str, float] = {}
    for primitive in trace_primitives(run, inputs):
        if primitive.macs:
            name = f"onednn {primitive.kind}"
            macs[primitive.number_format] = macs.get(primitive.number_format, 0) + primitive.macs / len(inputs)
            operators[name] = operators.get(name, 0) + primitive.macs / len(inputs)
    rest = program_coverage.total - sum(macs.values())
    if rest > 1e-6 * program_coverage.total:
        number_format = max(program_coverage.macs, key=lambda kind: program_coverage.macs[kind])
        macs[number_format] = macs.get(number_format, 0) + rest
        operators["outside oneDNN"] = rest
    return OpCoverage(macs, operators)
