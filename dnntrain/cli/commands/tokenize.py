"""`dnntrain tokenize PATH…`: write a text as tokens, for data=tokens."""

from __future__ import annotations

import sys
from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError
from dnntrain.utils.json_files import format_json


def run(arguments: Arguments) -> int:
    """Write the folder --path and print it."""
    options = arguments.options
    if options["path"] is None:
        raise ConfigError("tokenize needs a folder to write", "as in: dnntrain tokenize books --path tokens")
    if options["vocabulary_size"] is not None and options["tokenizer"] != "bpe":
        raise ConfigError(
            f"--vocabulary-size {options['vocabulary_size']} has no effect with --tokenizer {options['tokenizer']}",
            "use --tokenizer bpe",
        )
    from dnntrain.input.token_files import TokenizeOptions, tokenize_files

    summary = tokenize_files(
        [Path(item).expanduser() for item in arguments.positional],
        options["path"],
        TokenizeOptions(
            options["tokenizer"],
            options["vocabulary_size"] or 4096,
            options["suffixes"],
            options["separator"],
            options["val_fraction"],
            options["test_fraction"],
        ),
        progress=lambda text: None if arguments.quiet else print(text, file=sys.stderr),
    )
    if arguments.json:
        print(format_json({"path": str(options["path"]), **{key: summary[key] for key in ("documents", "tokens")}}))
    else:
        print(options["path"])
    return 0
