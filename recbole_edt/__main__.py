"""``python -m recbole_edt COMMAND``: the console script where it is not on the path."""

from recbole_edt.cli import main

if __name__ == "__main__":
    main()
