"""List the values of command options without importing torch."""

from __future__ import annotations

from typing import Literal, get_args

Split = Literal["train", "val", "test", "all"]

#: How the program of an export computes.
ExportRuntime = Literal["eager", "eager_bf16", "compiled", "compiled_bf16"]

#: How the model of a run is measured.
BenchRuntime = Literal["eager_fp32", "eager_bf16", "compiled_fp32", "compiled_bf16"]

#: Scores of channels that need no gradients.
Criterion = Literal["magnitude", "random", "fpgm", "bn_scale", "lamp"]

PredictionFormat = Literal["csv", "jsonl"]

SPLITS: tuple[str, ...] = get_args(Split)

#: The options of data sets that name a folder or a file.
DATA_PLACES = ("root", "file", "test_file", "path", "test_path", "classes")
