"""`dnntrain doctor`: check versions, devices, processor features, ports and write access."""

from __future__ import annotations

from dataclasses import asdict

from dnntrain.cli.parser import Arguments
from dnntrain.run.doctor import run_checks
from dnntrain.utils.json_files import format_json


def run(arguments: Arguments) -> int:
    """Print the result of every check. Return 1 if one of them is a fault."""
    checks = run_checks()
    if arguments.json:
        print(format_json([asdict(check) for check in checks], indent=1))
    else:
        for check in checks:
            mark = {"ok": "  ", "note": "- ", "fault": "! "}[check.level]
            print(f"{mark}{check.topic:<14} {check.text}")
    return int(any(check.level == "fault" for check in checks))
