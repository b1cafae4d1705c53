"""`dnntrain completion bash|zsh|fish`: print a static script that completes the command line."""

from __future__ import annotations

from dnntrain.cli.parser import Arguments
from dnntrain.cli.shell_completion import RENDERERS, collect_words
from dnntrain.config.registry import load_registry


def run(arguments: Arguments) -> int:
    """Print the script for one shell."""
    print(RENDERERS[arguments.positional[0]](collect_words(load_registry(arguments.config_dir))))
    return 0
