"""Answer `dnntrain report PIPELINE`: write its page, and name the model for a bound. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from dnntrain.errors import ConfigError
from dnntrain.pipeline.page import write_pipeline_report
from dnntrain.pipeline.points import choose_point, describe_point, parse_latency, read_measurements
from dnntrain.utils.json_files import format_json
from dnntrain.utils.suggest import format_path


def answer_pipeline(folder: Path, output: Path | None, max_latency: str | None, batch: int, as_json: bool) -> str:
    """Write the page of a pipeline, and return its path; with `max_latency` also the point to take.

    Raises ConfigError if the pipeline is not finished, or with the nearest bound if none is reached.
    """
    measurements = read_measurements(folder)
    if measurements is None:
        raise ConfigError(f"the pipeline in {format_path(folder)} is not finished", "finish it with its command")
    page = write_pipeline_report(folder, measurements, output)
    if max_latency is None:
        return format_json({"report": str(page)}) if as_json else format_path(page)
    point = choose_point(measurements, parse_latency(max_latency), batch)
    if as_json:
        return format_json({"report": str(page), "take": point.as_json(), "path": str(folder / point.path)})
    return f"take {describe_point(measurements, point, folder)}\n{format_path(page)}"
