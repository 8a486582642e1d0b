"""The command line for children of the daemon: `python -m qlib_crypto.cli.leashed ARGUMENTS…`.

It ends when its standard input closes, which is when the daemon is gone, however that ended.
"""

from __future__ import annotations

import sys

from qlib_crypto.cli import main
from qlib_crypto.daemon.leash import leash

if __name__ == "__main__":
    if sys.argv[1:2] != ["work"]:  # a worker reads its standard input itself
        leash()
    main()
