"""Check a certificate again: its files, its data, the metric of its model, and its latency here.

An altered file, other data or a metric outside of the certified interval fails. Another version,
another machine or another latency is reported as a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dnntrain.checkpoint.digests import compute_file_digest
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.pipeline.certificate import CERTIFICATE_FILE
from dnntrain.pipeline.keys import compute_code_digest
from dnntrain.pipeline.points import Measured, format_interval, format_latency
from dnntrain.protocols import MetricInfo
from dnntrain.utils.sealed_json import read_sealed_json
from dnntrain.utils.suggest import format_path
from dnntrain.utils.units import pluralize

Say = Callable[[str], None]
_RESTORE_HINT = "copy the whole folder again"


@dataclass(frozen=True)
class Check:
    """One check: `same` as certified, `differs` without harm, or `failed`."""

    subject: str
    status: Literal["same", "differs", "failed"]
    text: str

    def __str__(self) -> str:
        return f"{self.status:<8}{self.subject}: {self.text}"


def read_certificate(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the file and the content of a certificate; `path` is the file or its folder.

    Raises ConfigError if there is none, CheckpointError if it, or a file that it covers, was
    altered.
    """
    file = path / CERTIFICATE_FILE if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            f"{format_path(file)} does not exist", "a pipeline writes it beside its final model: dnntrain pipeline NAME"
        )
    certificate = read_sealed_json(file, _RESTORE_HINT)
    try:
        files = {str(name): str(digest) for name, digest in certificate["files"].items()}
        schema = certificate["schema"]
    except (KeyError, AttributeError) as error:
        raise CheckpointError(f"{file} is not a certificate ({error!r})", _RESTORE_HINT) from None
    if schema != 1 or not files:
        raise CheckpointError(f"{file} has schema {schema!r}; this version of dnntrain reads 1", "install that version")
    if problems := list(find_altered_files(file.parent, files)):
        raise CheckpointError(f"{format_path(file)} does not hold: {'; '.join(problems)}", _RESTORE_HINT)
    return file, certificate


def find_altered_files(folder: Path, files: Mapping[str, str]) -> Iterator[str]:
    """Yield a text for each file that is missing or differs from its digest."""
    for name, digest in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            yield f"{name!r} is not a file of its folder"
        elif not path.is_file():
            yield f"{name} is missing"
        elif (current := compute_file_digest(path)) != digest:
            yield f"{name} is damaged or was altered (sha256 {current[:8]}, certified {digest[:8]})"


def verify_certificate(path: Path, overrides: Sequence[str], *, trust: bool, timing: bool, say: Say) -> list[Check]:
    """Return all checks of a certificate. Raises as `read_certificate`, and DataError without the data."""
    file, certificate = read_certificate(path)
    count = pluralize(len(certificate["files"]), "file")
    checks = [Check("files", "same", f"{count} as certified"), *_compare_code(certificate["code"])]
    checks += _check_model(file.parent, certificate, overrides, trust, say)
    if timing:
        checks += _compare_latency(file.parent, certificate, trust, say)
    return checks


def _compare_code(code: Mapping[str, Any]) -> Iterator[Check]:
    from dnntrain.run.environment import collect_environment

    current = compute_code_digest()
    if current == code["digest"]:
        yield Check("code", "same", f"digest {current[:8]}")
    else:
        yield Check("code", "differs", f"digest {current[:8]}, certified {str(code['digest'])[:8]}")
    packages = collect_environment()["packages"]
    for name, version in code["packages"].items():
        if packages.get(name) != version:
            yield Check(f"package {name}", "differs", f"{packages.get(name, 'missing')}, certified {version}")


def _check_model(
    folder: Path, certificate: Mapping[str, Any], overrides: Sequence[str], trust: bool, say: Say
) -> Iterator[Check]:
    from dnntrain.inference.load import load_model
    from dnntrain.pipeline.measure import estimate_metric, is_on_cpu
    from dnntrain.prove.test_set_error import compute_sums_of_model, find_task_metric

    say("evaluating the test split")
    loaded = load_model(folder, [*(["device=cpu"] if is_on_cpu(folder) else []), *overrides], trust)
    certified_data = certificate["data"].get("digest")
    digest = loaded.config.data.build().digest
    if certified_data and digest != certified_data:
        yield Check("data", "failed", f"digest {digest[:8]}, certified {certified_data[:8]}")
    else:
        yield Check("data", "same", f"digest {digest[:8]}")
    item = certificate["metric"]
    info = MetricInfo(item["name"], item["higher_is_better"], item["unit"])
    certified = Measured(*item["value"])
    measured = estimate_metric(
        [compute_sums_of_model(loaded, info.name)], find_task_metric(loaded.config.task, info.name, loaded.spec)
    )
    texts = [format_interval(info, value) for value in (measured, certified)]
    if measured.value == certified.value:
        yield Check(info.name, "same", texts[0])
    else:
        status: Literal["differs", "failed"] = (
            "differs" if certified.low <= measured.value <= certified.high else "failed"
        )
        yield Check(info.name, status, f"{texts[0]}, certified {texts[1]}")


def _compare_latency(folder: Path, certificate: Mapping[str, Any], trust: bool, say: Say) -> Iterator[Check]:
    from dnntrain.pipeline.measure import measure_latencies
    from dnntrain.utils.hardware import probe_hardware

    machine, hardware = certificate["machine"], probe_hardware("cpu")
    facts = {"cpu": hardware.cpu_model, "threads": hardware.cores}
    for name, value in facts.items():
        status: Literal["same", "differs"] = "same" if machine.get(name) == value else "differs"
        yield Check(name, status, f"{value}" if status == "same" else f"{value}, certified {machine.get(name)}")
    batches = sorted(map(int, certificate["latency_ms"]))
    latencies = measure_latencies(folder, batches, trust=trust, say=say)
    for batch in batches:
        certified, measured = Measured(*certificate["latency_ms"][str(batch)]), latencies[batch]
        overlaps = measured.low <= certified.high and certified.low <= measured.high
        yield Check(
            f"latency at batch {batch}",
            "same" if overlaps else "differs",
            f"{format_latency(measured)}, certified {format_latency(certified)}",
        )


def as_json(checks: Sequence[Check]) -> dict[str, Any]:
    """Return the checks as JSON, with `verified`: whether none failed."""
    return {"verified": is_verified(checks), "checks": [vars(replace(check)) for check in checks]}


def is_verified(checks: Sequence[Check]) -> bool:
    """Return whether no check failed."""
    return all(check.status != "failed" for check in checks)
