"""What a perp exchange refuses at construction, each a silent error of Qlib's otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qlib.config import C
from qlib.data import D
from qlib.utils import code_to_fname

from qlib_crypto.errors import ConfigError
from qlib_crypto.symbols import Interval


def refuse_stock_rules(deal_price: str | None, unknown: Mapping[str, Any]) -> None:
    """Refuses unknown keys and what Qlib's regions assume of stocks: trade unit, price limit, deal at close."""
    if unknown:
        raise ConfigError(f"exchange keys {sorted(unknown)} are unknown to PerpExchange; remove them")
    for key, value in (("trade_unit", C.trade_unit), ("limit_threshold", C.limit_threshold)):
        if value is not None:
            raise ConfigError(f"qlib_init.{key} is {value}, a stock default of region {C.region}; write {key}: null")
    price = deal_price or C.deal_price
    if price not in ("open", "$open"):
        raise ConfigError(f"deal_price is {price!r}: a bar is known at its close, so deal at the next open; write open")


def one_of(key: str, value: str, choices: Sequence[str]) -> None:
    """Refuses a value that is no choice."""
    if value not in choices:
        raise ConfigError(f"{key} {value!r} is unknown; choose one of: {', '.join(choices)}")


def stored(freq: str) -> Path:
    """The provider's folder of a stored frequency; Qlib would invent stock hours for one that is not stored."""
    name = Interval.parse(freq).qlib
    folder = Path(C.dpm.get_data_uri(name))
    if not (folder / "calendars" / f"{name}.txt").is_file():
        have = sorted(p.stem for p in folder.glob("calendars/*.txt") if not p.stem.endswith("_future"))
        raise ConfigError(f"freq {freq!r} is not stored in {folder} (stored: {', '.join(have) or 'none'}); convert it")
    return folder


def names_of(
    codes: str | Sequence[str], freq: str, start: Any, end: Any, spans: dict[str, list[tuple[Any, Any]]]
) -> list[str]:
    """The instruments of a market or list, sorted; a market's membership spans are put into `spans`."""
    if not isinstance(codes, str):
        names = sorted(set(codes))
        features = stored(freq) / "features"
        absent = [name for name in names if not (features / code_to_fname(name).lower()).is_dir()]
        if absent:
            raise ConfigError(f"codes {', '.join(absent)} are not in the provider; correct the names or convert them")
    else:
        try:
            spans.update(D.list_instruments(D.instruments(codes), start, end, freq=freq))
        except (ValueError, FileNotFoundError):
            raise ConfigError(f"codes {codes!r} is no market of the provider; see its instruments folder") from None
        names = sorted(spans)
    if not names:
        raise ConfigError(f"codes {codes!r} has no instrument between {start} and {end}; change codes or the span")
    return names
