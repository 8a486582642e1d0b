from __future__ import annotations

from qlib_crypto.errors import counted, hint


def test_the_hint_is_the_closest_name_or_all():
    assert hint("trian", ["train", "valid"]) == "; did you mean train?"
    assert hint("xyz", ["train", "valid"]) == "; known: train, valid"
    assert hint("xyz", []) == ""


def test_numbers_are_counted_in_words():
    assert [counted(1, "bar"), counted(2_880, "bar")] == ["1 bar", "2,880 bars"]
    assert counted(0, "fee", "fees paid") == "0 fees paid"
