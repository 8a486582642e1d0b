"""Runs a `qlib-crypto` command under a well-known script name; says in one line when the environment is missing."""

import sys
from typing import NoReturn


def run(*command: str) -> NoReturn:
    try:
        from qlib_crypto.cli import main  # noqa: PLC0415 - the package may be missing, and then we say so
    except ModuleNotFoundError as error:
        sys.exit(f"{error}: run scripts/setup.sh, then `conda activate qlib` or `source .venv/bin/activate`")
    sys.argv[1:1] = command
    main()
