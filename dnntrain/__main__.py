"""`python -m dnntrain` is `dnntrain`."""

from dnntrain.cli.main import entry

if __name__ == "__main__":
    entry()
