"""What the parts of a perp backtest refuse, each a silent or late error of Qlib's otherwise.

The classes that a YAML names have a static `check_values(where, kwargs)`: it checks what is given without constructing
anything, so that `qlib-crypto run` can refuse it before training; the constructors call it too, for plain `qrun`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qlib.config import C
from qlib.data import D
from qlib.utils import code_to_fname

from qlib_crypto.backtest.slippage import Slippage
from qlib_crypto.backtest.terms import RiskLimits
from qlib_crypto.backtest.values import number, one_of
from qlib_crypto.errors import ConfigError, hint
from qlib_crypto.market.fees import fee_rate, fee_schedule
from qlib_crypto.symbols import Interval

_CHOICES = {
    "liquidity": ("taker", "maker"),
    "missing_funding": ("error", "untradable", "zero"),
    "margin_mode": ("cross", "isolated", "none"),
}
#: What they must be, and what to write.
_NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "max_gross_leverage": (lambda v: v > 0, "must be a positive multiple of equity such as 3.0, or null"),
    "leverage": (lambda v: v >= 1, "must be notional over initial margin, 1 or more, such as 5.0"),
    "liquidation_fee": (lambda v: 0 <= v <= 1, "must be a fraction from 0 to 1, or null"),
    "participation": (lambda v: 0 < v <= 1, "must be a fraction above 0 and up to 1, or null"),
}


def refuse_stock_rules(deal_price: str | None) -> None:
    """Refuses what Qlib's regions assume of stocks: trade unit, price limit, deal at close."""
    for key, value in (("trade_unit", C.trade_unit), ("limit_threshold", C.limit_threshold)):
        if value is not None:
            raise ConfigError(f"qlib_init.{key} is {value}, a stock default of region {C.region}; write {key}: null")
    deal_at_open("deal_price", deal_price or C.deal_price)


def deal_at_open(key: str, price: Any) -> None:
    """Refuses to deal at the close."""
    if price not in ("open", "$open"):
        raise ConfigError(f"{key} is {price!r}: a bar is known at its close, so deal at the next open; write open")


def exchange_values(where: str, kwargs: Mapping[str, Any]) -> None:
    """Nothing, when the given keyword arguments of an exchange have values that make sense.

    Raises
    ------
    ConfigError
        Names the first that has not, under `where`.

    """
    _cost_values(where, kwargs)
    RiskLimits.check_values(f"{where}.limits", kwargs.get("limits"))
    if kwargs.get("inner") not in (None, "auto"):
        try:
            Interval.parse(str(kwargs["inner"]))
        except ConfigError as error:
            raise ConfigError(f"{where}.inner: {error}") from None
    for key, value in kwargs.items():
        at = f"{where}.{key}"
        if key in _CHOICES:
            one_of(at, value, _CHOICES[key])
        elif key in _NUMBERS and (value is not None or not _NUMBERS[key][1].endswith("null")):
            number(at, value, *_NUMBERS[key])
        elif key == "deal_price" and value is not None:
            deal_at_open(at, value)
        elif key == "codes" and not (isinstance(value, str) or is_names(value)):
            raise ConfigError(f"{at} {value!r} must be a market such as okx_60min or a list of instruments")
        elif (
            key in ("specs", "margin_tiers")
            and value is not None
            and not (isinstance(value, str) and Path(value).is_file())
        ):
            raise ConfigError(f"{at} {value!r} does not exist as a file; leave it out for what the provider knows")


def _cost_values(where: str, kwargs: Mapping[str, Any]) -> None:
    given = {key: kwargs[key] for key in ("fees", "taker_fee", "maker_fee", "slippage") if kwargs.get(key) is not None}
    for key in ("taker_fee", "maker_fee"):
        if key in given:
            fee_rate(f"{where}.{key}", given[key], rebate=key == "maker_fee")
            if "fees" in given:
                raise ConfigError(f"{where}.{key} and {where}.fees both say what a trade costs; remove one")
    if "fees" in given:
        fee_schedule(given["fees"], f"{where}.fees")
    if "slippage" in given:
        Slippage.check_values(f"{where}.slippage", given["slippage"])


def is_names(value: Any) -> bool:
    """True for a list of texts."""
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def frequencies(folder: Path) -> list[str]:
    """The bar lengths that a provider's folder has, in alphabetical order."""
    return sorted(path.stem for path in folder.glob("calendars/*.txt") if not path.stem.endswith("_future"))


def stored(freq: str) -> Path:
    """The provider's folder of a stored frequency; Qlib would invent stock hours for one that is not stored."""
    name = Interval.parse(freq).qlib
    folder = Path(C.dpm.get_data_uri(name))
    if not (folder / "calendars" / f"{name}.txt").is_file():
        have = ", ".join(frequencies(folder)) or "none"
        raise ConfigError(f"freq {freq!r} is not stored in {folder} (stored: {have}); convert it")
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
            markets = [path.stem for path in (stored(freq) / "instruments").glob("*.txt")]
            raise ConfigError(f"codes {codes!r} is no market of the provider{hint(codes, markets)}") from None
        names = sorted(spans)
    if not names:
        bars = (stored(freq) / "calendars" / f"{freq}.txt").read_text(encoding="utf-8").splitlines()
        raise ConfigError(
            f"codes {codes!r} has no instrument between {start} and {end}; bars of {freq} are stored from {bars[0]} to "
            f"{bars[-1]}"
        )
    return names
