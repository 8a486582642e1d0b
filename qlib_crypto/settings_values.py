"""What a single setting may be: values as a file or the environment gives them, checked, in our spelling."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic.functional_validators import AfterValidator, BeforeValidator

from qlib_crypto.errors import QlibCryptoError
from qlib_crypto.symbols import Instrument, Interval, Venue


def _named(parse: Callable[[str], Interval]) -> Callable[[str], str]:
    """The lake's spelling of an interval, refused as pydantic wants it."""

    def name(text: str) -> str:
        try:
            return parse(text).name
        except QlibCryptoError as error:
            raise ValueError(str(error)) from None

    return name


def _symbols(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if value == "top50" or not isinstance(value, str):
        try:
            return value if isinstance(value, str) else tuple(Instrument.parse(s, Venue.OKX).symbol for s in value)
        except QlibCryptoError as error:
            raise ValueError(str(error)) from None
    raise ValueError(f"symbols {value!r}: write top50 or a list of symbols")


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value  # the environment knows texts only


def is_address(text: str) -> bool:
    """Whether it is an fsspec address (`s3://bucket/path`, also as a `Path` shows it) and no local folder."""
    return re.match(r"[a-z][a-z0-9+.-]+:/", text) is not None


def _folder(value: object) -> object:
    if is_address(str(value)):
        raise ValueError(
            f"{value} is an address; write the folder that is collected into, and give the address to commands that "
            "read: --lake"
        )
    return value


def _address(text: str) -> str:
    if text and not is_address(text):
        raise ValueError(f"{text} is no address; write such as s3://bucket/path")
    return text


IntervalName = Annotated[str, AfterValidator(_named(Interval.parse))]
CandleName = Annotated[str, AfterValidator(_named(Interval.parse_candle))]
#: They divide a day: what is done every so many hours, counted from 00:00, is done at the same times each day.
EveryHours = Annotated[Literal[1, 2, 3, 4, 6, 8, 12, 24], BeforeValidator(_number)]
#: `top50`, or symbols.
Symbols = Annotated[str | tuple[str, ...], AfterValidator(_symbols)]
BookDepth = Annotated[Literal[5, 10, 20], BeforeValidator(_number)]
#: A folder of this machine, and an fsspec address.
LocalFolder = Annotated[Path, BeforeValidator(_folder)]
Address = Annotated[str, AfterValidator(_address)]
