"""The values of options of a sweep. Imports neither hydra nor torch."""

from __future__ import annotations

from typing import Literal

SamplerName = Literal["grid", "random", "tpe", "cmaes", "nsga2"]
RuleName = Literal["asha", "median"]
