"""`python -m dnntrain` is `dnntrain`."""

from dnntrain.cli import entry

if __name__ == "__main__":
    entry()
