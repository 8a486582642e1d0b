"""Numbers and frames on the wire, against Python's own reader and an independent frame parser."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from qlib_crypto.sandbox.text import frame, padded, plain, texts

FINITE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e18, max_value=1e18)


@settings(deadline=None)
@given(FINITE)
def test_a_number_reads_back_exactly_and_has_no_exponent(value):
    text = plain(value)
    assert float(text) == value
    assert re.fullmatch(r"-?\d+(\.\d+)?", text)


@settings(deadline=None)
@given(hnp.arrays(np.float64, st.integers(0, 30), elements=st.one_of(FINITE, st.just(math.nan))))
def test_many_numbers_are_written_as_one_by_one(values):
    assert texts(values) == [plain(value) for value in values.tolist()]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (46214.0, "46214"),
        (6.5e-06, "0.0000065"),
        (1e16, "10000000000000000"),
        (0.1, "0.1"),
        (math.nan, ""),
        (10.05, "10.05"),
    ],
)
def test_numbers_as_the_venues_write_them(value, text):
    assert plain(value) == text


@settings(deadline=None)
@given(st.floats(-1, 1))
def test_padding_keeps_every_digit(value):
    text = padded(value, 8)
    assert float(text) == value
    assert len(text.partition(".")[2]) >= 8


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_000])
def test_a_frame_is_what_an_independent_parser_reads(size):
    reader = StreamReader()
    reader.feed_data(frame("x" * size) + frame("next"))
    read = _parse(reader)
    assert (read.opcode, read.fin, len(read.data)) == (Opcode.TEXT, True, size)
    assert _parse(reader).data == b"next"


def _parse(reader: StreamReader) -> Frame:
    parser = Frame.parse(reader.read_exact, mask=False, max_size=None)
    try:
        while True:
            next(parser)
    except StopIteration as done:
        return done.value


def test_a_frame_carries_utf8():
    assert frame("币")[2:].decode() == "币"
