"""On which terms an account trades, from what a YAML says to what the compiled step reads."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from qlib_crypto.backtest.account import Floats, Ints
from qlib_crypto.backtest.costs import Costs
from qlib_crypto.backtest.layout import ERROR, UNTRADABLE, ZERO
from qlib_crypto.backtest.values import no_others, number, positive
from qlib_crypto.clock import DAY_MS
from qlib_crypto.errors import ConfigError

POLICIES = {"error": ERROR, "untradable": UNTRADABLE, "zero": ZERO}
MARGIN_MODES = ("cross", "isolated", "none")
#: The cap of an account that is not given one, and its notional over initial margin.
MAX_GROSS_LEVERAGE, LEVERAGE = 3.0, 5.0


@dataclass(frozen=True, slots=True)
class RiskLimits:
    """What an account forbids itself, beside `max_gross_leverage`.

    Attributes
    ----------
    position
        Notional over equity of one position that no order may go beyond.
    net
        |Longs - shorts| over equity that no order may go beyond.
    daily_loss
        Part of the equity at the start of a UTC day: when more is lost at a bar's close, all is closed at the next open
        and nothing opened in that day.
    drawdown
        Part of the highest equity: as `daily_loss`, and nothing is opened for `pause`.
    pause
        How long after the drawdown limit, such as `7d`; None for good. Then the highest equity counts from there.
    cool_down
        How long an instrument is not opened or added to after a stop loss or trailing stop closed it, such as `12h`.

    Raises
    ------
    ConfigError
        When a value makes no sense.

    """

    position: float | None = None
    net: float | None = None
    daily_loss: float | None = None
    drawdown: float | None = None
    pause: str | None = None
    cool_down: str | None = None

    def __post_init__(self) -> None:
        self.check_values("limits", asdict(self))

    @classmethod
    def of(cls, given: RiskLimits | Mapping[str, Any] | None) -> RiskLimits | None:
        """Those of a keyword `limits`: a mapping in YAML; None for none."""
        if given is None or isinstance(given, RiskLimits):
            return given
        cls.check_values("limits", given)
        return cls(**given)

    @staticmethod
    def check_values(where: str, given: Any) -> None:
        """Refuses what is no value of a keyword `limits`."""
        names = [field.name for field in fields(RiskLimits)]
        if isinstance(given, RiskLimits) or given is None:
            return
        if not isinstance(given, Mapping):
            raise ConfigError(f"{where} {given!r} must be a mapping of: {', '.join(names)}")
        no_others(where, given, names)
        for key in ("position", "net"):
            if given.get(key) is not None:
                positive(f"{where}.{key}", given[key], "notional over equity, such as 0.5")
        for key in ("daily_loss", "drawdown"):
            if given.get(key) is not None:
                what = "must be a fraction of equity between 0 and 1, such as 0.1"
                number(f"{where}.{key}", given[key], lambda v: 0 < v < 1, what)
        for key in ("pause", "cool_down"):
            if given.get(key) is not None:
                _span_ms(f"{where}.{key}", given[key])
        if given.get("pause") is not None and given.get("drawdown") is None:
            raise ConfigError(f"{where}.pause needs drawdown, which it is the pause after; add it or take pause out")

    def places(self, step_ms: int) -> list[float]:
        """As `trading.LIMITED` and so on; spans are rounded up to whole bars of `step_ms`."""
        caps = [math.inf if cap is None else cap for cap in (self.position, self.net, self.daily_loss, self.drawdown)]
        cool_down = 0 if self.cool_down is None else -(-_span_ms("limits.cool_down", self.cool_down) // step_ms)
        pause = math.inf if self.pause is None else -(-_span_ms("limits.pause", self.pause) // step_ms)
        limited = cool_down > 0 or any(cap < math.inf for cap in caps)
        return [float(limited), *caps, float(cool_down), float(pause)]

    def told(self) -> str:
        """For the assumptions of a run."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in given.items())


def _span_ms(where: str, value: Any) -> int:
    found = re.fullmatch(r"([1-9][0-9]{0,5})(min|h|d)", value) if isinstance(value, str) else None
    if found is None:
        raise ConfigError(f"{where} {value!r} is no span of time; write such as 30min, 12h or 7d")
    return int(found[1]) * {"min": 60_000, "h": 3_600_000, "d": DAY_MS}[found[2]]


@dataclass(frozen=True, slots=True)
class Terms:
    """See `PerpExchange` for what each one means."""

    costs: Costs
    missing_funding: str = "error"
    max_gross_leverage: float | None = MAX_GROSS_LEVERAGE
    margin_mode: str = "cross"
    leverage: float = LEVERAGE
    liquidation_fee: float | None = None
    participation: float | None = None
    limits: RiskLimits | None = None

    def array(self, step_ms: int) -> Floats:
        """As `trading.AS_TAKER` and so on; `step_ms` is a bar."""
        margined = self.margin_mode != "none"
        return np.array(
            [
                self.costs.liquidity == "taker",
                self.costs.slippage.of_all or 0.0,
                math.inf if self.participation is None else self.participation,
                math.inf if self.max_gross_leverage is None else self.max_gross_leverage,
                self.leverage if margined else 0.0,
                self.margin_mode == "isolated",
                -1.0 if self.liquidation_fee is None else self.liquidation_fee,
                POLICIES[self.missing_funding],
                *(self.limits or RiskLimits()).places(step_ms),
            ],
            dtype=np.float64,
        )

    def fees(self, opens_ms: Ints) -> Floats:
        """The rates of each bar, as `trading.TAKER` and `trading.MAKER`, shape (2, bars)."""
        return self.costs.rates(opens_ms)

    def told(self, tier_sources: Mapping[str, int]) -> dict[str, Any]:
        """For the assumptions of a run."""
        if self.margin_mode == "none":
            margin: dict[str, Any] = {"margin": "none: no maintenance margin and no liquidation"}
        else:
            penalty = "maintenance margin and closing fee" if self.liquidation_fee is None else self.liquidation_fee
            margin = {
                "margin": f"{self.margin_mode}, liquidated on the way from each mark to the bar's worst one",
                "leverage": self.leverage,
                "margin_tiers": dict(tier_sources),
                "liquidation_fee": penalty,
            }
        return {
            **self.costs.told(),
            **margin,
            "max_gross_leverage": self.max_gross_leverage,
            "participation": "no cap" if self.participation is None else self.participation,
            "missing_funding": self.missing_funding,
            **({} if self.limits is None else {"risk_limits": self.limits.told()}),
        }
