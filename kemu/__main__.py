"""``python -m kemu``: the command line, where the script of that name is not on the path."""

from kemu.cli.app import run

if __name__ == "__main__":
    run()
