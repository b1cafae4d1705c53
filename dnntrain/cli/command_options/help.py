"""The commands that inform: purpose, operands, options and examples of each."""

from __future__ import annotations

from dnntrain.cli.command import CONFIG_DIR, JSON, Command

HELP_COMMANDS: dict[str, Command] = {
    "ls": Command(
        "list groups, their choices and the options of a choice",
        "[GROUP [CHOICE]]",
        ("dnntrain ls", "dnntrain ls optim", "dnntrain ls average ema", "dnntrain ls optim sgd --json"),
        options=(JSON, CONFIG_DIR),
        settings=(),
    ),
    "config": Command(
        "print the resolved configuration",
        examples=(
            "dnntrain config",
            "dnntrain config optim=sgd +average=[ema] > mine.yaml",
            "dnntrain optim=sgd --cfg job",
        ),
        details="YAML on stdout, or JSON with --json.",
        options=(JSON, CONFIG_DIR),
        composes=True,
    ),
    "schema": Command(
        "print the JSON Schema of a configuration, for editors",
        examples=("dnntrain schema > schema.json",),
        details="Put `# yaml-language-server: $schema=schema.json` at the head of a saved config.yaml.",
        options=(JSON, CONFIG_DIR),
        settings=(),
    ),
    "completion": Command(
        "shell completion",
        "bash|zsh|fish",
        ('eval "$(dnntrain completion bash)"', "dnntrain completion fish > ~/.config/fish/completions/dnntrain.fish"),
        options=(CONFIG_DIR,),
        settings=(),
    ),
    "doctor": Command(
        "check versions, devices, processor features, ports, write access",
        examples=("dnntrain doctor", "dnntrain doctor --json"),
        options=(JSON,),
        settings=(),
    ),
}
