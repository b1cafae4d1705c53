"""`python -m dnntrain` is `dnntrain`."""

from dnntrain.cli.main import run_console_script

if __name__ == "__main__":
    run_console_script()
