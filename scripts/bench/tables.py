"""Compares model=mlp on a table with scikit-learn's HistGradientBoosting on the same rows.

    python scripts/bench/tables.py diamonds.csv price [OVERRIDE …]

The training, validation and test rows are dnntrain's for both. Boosting stops early on the same validation rows as
the network chooses its checkpoint on; both are measured on the test rows once.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from dnntrain import train
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.input.split import prepare_data
from dnntrain.protocols import ColumnKind


def main() -> None:
    file, target, *words = sys.argv[1:]
    line = ("task=regression", "data=table", f"data.file={file}", f"data.target=[{target}]", "model=mlp", *words)
    with tempfile.TemporaryDirectory() as folder:
        result = train(*line, f"run_dir={Path(folder) / 'run'}", "log.report=false", display="quiet")
    print(f"dnntrain: RMSE {result['test_rmse']:.1f}, R2 {result['test_r2']:.4f}, {result['train_s']:.0f} s")
    data = prepare_data(decode_config(compose(line)), decode_config(compose(line)).data.build())
    spec, dataset = data.spec, data.dataset
    scale, shift = spec.targets.std[0], spec.targets.mean[0]
    rows = {
        "train": dataset.train.get_resident_inputs().numpy()[data.train],
        "val": dataset.train.get_resident_inputs().numpy()[data.val],
        "test": dataset.test.get_resident_inputs().numpy()[data.test],
    }
    labels = {"train": dataset.train.labels[data.train], "val": dataset.train.labels[data.val]}
    labels = {name: values[:, 0] * scale + shift for name, values in {**labels, "test": dataset.test.labels}.items()}
    categories = [column.kind is ColumnKind.CATEGORY for column in spec.inputs.columns]
    start_s = time.perf_counter()
    model = HistGradientBoostingRegressor(
        max_iter=2000, early_stopping=True, categorical_features=categories, random_state=0
    )
    model.fit(rows["train"], labels["train"], X_val=rows["val"], y_val=labels["val"])
    seconds = time.perf_counter() - start_s
    errors = labels["test"] - model.predict(rows["test"])
    r2 = 1 - np.square(errors).sum() / np.square(labels["test"] - labels["test"].mean()).sum()
    rmse = float(np.sqrt(np.square(errors).mean()))
    print(f"HistGradientBoosting: RMSE {rmse:.1f}, R2 {r2:.4f}, {seconds:.0f} s, {model.n_iter_} trees")


if __name__ == "__main__":
    main()
