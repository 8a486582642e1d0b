"""Who holds a lock file, asked without touching the lock."""

from __future__ import annotations

import os
import re
from pathlib import Path


def holder(path: Path, *, locks: Path = Path("/proc/locks")) -> int | None:
    """The process that holds an exclusive `flock` on the file, None when nobody does.

    The kernel is asked (Linux), because to try the lock would get in the way of who wants it now; it shows nothing of
    other containers. Where it cannot be asked, the process that the file names counts while it lives. A holder whose
    number nobody tells is process 0.
    """
    try:
        inode = path.stat().st_ino
        named = int((re.findall(r"\d+", path.read_text(encoding="utf-8", errors="replace")) or ["0"])[0])
    except (OSError, ValueError):
        return None
    try:
        held = re.findall(rf"^\d+: FLOCK\s+ADVISORY\s+WRITE (-?\d+) \w+:\w+:{inode} ", locks.read_text(), re.MULTILINE)
    except OSError:
        return named if named and lives(named) else None
    return max(int(held[0]), 0) or named if held else None


def lives(pid: int) -> bool:
    """Whether a process with this number exists; another user's counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
