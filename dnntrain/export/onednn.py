"""What oneDNN ran, in its own words: seen even where code calls it past torch's dispatcher, as AOTInductor's does."""

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

from dnntrain.export.op_coverage import Census


@dataclass(frozen=True)
class Primitive:
    """One primitive that was executed.

    kind    convolution, inner_product, matmul, reorder …
    number  format of what it multiplies, as in a census: int8, bf16, fp16 or fp32
    macs    multiply-adds; 0 for what does none
    """

    kind: str
    number: str
    macs: int
    milliseconds: float


def executed(run: Callable[[Tensor], Tensor], images: Tensor) -> list[Primitive]:
    """What oneDNN executed in the second of two calls of `run`; nothing where torch was built without it."""
    backend: Any = torch.backends.mkldnn
    if not backend.is_available():
        return []
    with torch.no_grad():
        run(images)
        sys.stdout.flush()
        with tempfile.TemporaryFile() as log:
            # It writes to the descriptor of stdout, below Python.
            kept = os.dup(1)
            os.dup2(log.fileno(), 1)
            try:
                with backend.verbose(backend.VERBOSE_ON):
                    run(images)
            finally:
                os.dup2(kept, 1)
                os.close(kept)
            log.seek(0)
            return list(parsed(log.read().decode(errors="replace")))


def parsed(log: str) -> Iterator[Primitive]:
    """The executed primitives of a log of ONEDNN_VERBOSE=1, version 1.

    A line is onednn_verbose,v1,primitive,exec,ENGINE,KIND,IMPLEMENTATION,PROPAGATION,TENSORS,ATTRIBUTES,AUXILIARY,SHAPES,MILLISECONDS.
    Source: oneDNN developer guide, "Verbose Mode".
    """
    for line in log.splitlines():
        fields = line.split(",")
        if fields[:4] == ["onednn_verbose", "v1", "primitive", "exec"] and len(fields) >= 13:
            kind, tensors, shapes = fields[5], fields[8], fields[-2]
            number = re.search(r"\bsrc(?:_\d+)?:(\w+)", tensors)
            name = _NUMBERS.get(number[1], number[1]) if number else ""
            yield Primitive(kind, name, _macs(kind, shapes), float(fields[-1]))


_NUMBERS = {"f32": "fp32", "f16": "fp16", "u8": "int8", "s8": "int8"}


def _macs(kind: str, shapes: str) -> int:
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


def onednn_census(run: Callable[[Tensor], Tensor], images: Tensor, program: Census) -> Census:
    """The census of `run` from what oneDNN executed.

    Multiply-adds of the `program` that it was compiled from that oneDNN did not see (attention's fused products, a BLAS) are added in the
    program's own number format: Inductor changes none. Their operator is "outside oneDNN".
    """
    macs: dict[str, float] = {}
    operators: dict[str, float] = {}
    for found in executed(run, images):
        if found.macs:
            name = f"onednn {found.kind}"
            macs[found.number] = macs.get(found.number, 0) + found.macs / len(images)
            operators[name] = operators.get(name, 0) + found.macs / len(images)
    rest = program.total - sum(macs.values())
    if rest > 1e-6 * program.total:
        number = max(program.macs, key=lambda kind: program.macs[kind])
        macs[number] = macs.get(number, 0) + rest
        operators["outside oneDNN"] = rest
    return Census(macs, operators)
