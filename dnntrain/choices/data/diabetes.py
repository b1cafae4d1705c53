"""Progression of diabetes in 442 patients (Efron et al., "Least angle regression", 2004).

Shipped with dnntrain; see DIABETES_LICENSE.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dnntrain.choices.data._table import TableData, TableLayout, build_table
from dnntrain.input.source import DataSet
from dnntrain.input.table_file import read_table

FILE = Path(__file__).with_name("diabetes.csv")


@dataclass(frozen=True)
class Diabetes(TableData):
    """Predict the progression of diabetes, a number from 25 to 346, from 10 measurements of a patient."""

    def build(self) -> DataSet:
        layout = TableLayout(targets=("progression",), categories=("sex",))
        return build_table("diabetes", read_table(FILE, ("sex",)), None, layout, self.test_fraction)
