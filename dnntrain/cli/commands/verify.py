"""`dnntrain verify FILE`: check the certificate of a pipeline's final model again, on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.errors import CheckpointError
from dnntrain.pipeline.verify import as_json, is_verified, read_certificate, verify_certificate
from dnntrain.utils.json_files import format_json


def run(arguments: Arguments) -> int:
    """Print each check; return 0 if none failed, else the exit code of an unusable model file."""
    path = Path(arguments.positional[0]).expanduser()
    read_certificate(path)  # altered files are found before torch is imported
    checks = verify_certificate(
        path,
        arguments.overrides,
        trust=arguments.options["trust"],
        timing=arguments.options["timing"],
        say=lambda text: None if arguments.quiet else print(text, file=sys.stderr),
    )
    if arguments.json:
        print(format_json(as_json(checks), indent=1))
    else:
        print(*checks, "verified" if is_verified(checks) else "NOT verified", sep="\n")
    return 0 if is_verified(checks) else CheckpointError.exit_code
