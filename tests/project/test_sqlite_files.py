"""What our SQLite files share."""

from __future__ import annotations

import sqlite3
import threading

import pytest

from qlib_crypto.sqlite import log_ahead


def test_connections_that_make_a_file_together_wait_for_each_other(tmp_path):
    """Without waiting about one file in a hundred fails."""
    failed = []

    def write(path, ready):
        ready.wait()
        connection = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        try:
            log_ahead(connection, 30.0)
            connection.execute("CREATE TABLE IF NOT EXISTS t (a)")
            connection.execute("INSERT INTO t VALUES (1)")
        except sqlite3.Error as error:
            failed.append(error)
        finally:
            connection.close()

    for number in range(200):
        path, ready = tmp_path / f"{number}.sqlite", threading.Barrier(6)
        threads = [threading.Thread(target=write, args=(path, ready)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (6,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


class Busy:
    """A connection that another one blocks for the first tries."""

    def __init__(self, path, tries):
        self.real, self.left = sqlite3.connect(path), tries

    def execute(self, statement):
        if "journal_mode" in statement and self.left:
            self.left -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorname = "SQLITE_BUSY"
            raise error
        return self.real.execute(statement)


def test_a_file_that_is_held_is_waited_for_and_no_longer_than_said(tmp_path):
    waits = Busy(tmp_path / "a.sqlite", 3)
    log_ahead(waits, 30.0)
    assert waits.left == 0
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        log_ahead(Busy(tmp_path / "b.sqlite", 10**9), 0.05)
