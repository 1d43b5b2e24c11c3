"""``python -m wsiseg``: the same as the command ``wsiseg``."""

from wsiseg.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main(prog_name="wsiseg")
