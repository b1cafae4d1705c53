"""`dnntrain generate RUN`: continue a text with a trained language model."""

from __future__ import annotations

import sys
from pathlib import Path

from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError
from dnntrain.inference.run_args import check_model
from dnntrain.utils.json_files import format_json
from dnntrain.utils.terminal_text import clean_text


def run(arguments: Arguments) -> int:
    """Print the prompt and the text after it as it is generated, or one JSON object."""
    options = arguments.options
    run_path = Path(arguments.positional[0]).expanduser()
    if options["top_k"] is not None and options["temperature"] == 0:
        raise ConfigError(
            f"--top-k {options['top_k']} has no effect with --temperature 0, which takes the most probable token",
            "leave one of them out",
        )
    check_model(run_path, arguments.overrides)
    from dnntrain.inference.generate import generate_text
    from dnntrain.nn.generation import Sampling
    from dnntrain.run.unfinished import write_unfinished_model

    write_unfinished_model(run_path, arguments.overrides, options["trust"])
    # Several texts would mix on the terminal: each is printed when all are complete.
    streams = not arguments.json and options["samples"] == 1
    shown = [options["prompt"]]

    def write(sample: int, text: str) -> None:
        if streams:
            # The prompt comes with the first text, when it is known to be one.
            print(clean_text("".join(shown) + text), end="", flush=True)
            shown.clear()

    generation = generate_text(
        run_path,
        options["prompt"],
        options["tokens"],
        Sampling(options["temperature"], options["top_k"], options["seed"]),
        samples=options["samples"],
        uses_cache=options["cache"],
        overrides=arguments.overrides,
        trust=options["trust"],
        on_text=write,
    )
    if arguments.json:
        print(format_json(generation.as_json()))
    elif streams:
        print(clean_text("".join(shown)))
    else:
        for number, sample in enumerate(generation.samples, 1):
            print(f"--- {number} ---\n{clean_text(options['prompt'] + sample.text)}")
    if not arguments.quiet:
        print(generation.format_speed(), file=sys.stderr)
    return 0
