"""`python -m dnntrain` is `dnntrain`."""

from dnntrain.utils.early_exit import exit_at_once_on_signals


def main() -> None:
    """Run the console script `dnntrain`; a signal ends it from here on with its exit code."""
    exit_at_once_on_signals()
    from dnntrain.utils.processes import die_with_agent

    die_with_agent()
    from dnntrain.cli.main import run_console_script

    run_console_script()


if __name__ == "__main__":
    main()
