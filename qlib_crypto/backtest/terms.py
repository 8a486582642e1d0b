"""On which terms an account trades, from what a YAML says to what the compiled step reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qlib_crypto.backtest.account import Floats, Ints
from qlib_crypto.backtest.costs import Costs
from qlib_crypto.backtest.trading import ERROR, UNTRADABLE, ZERO

POLICIES = {"error": ERROR, "untradable": UNTRADABLE, "zero": ZERO}
MARGIN_MODES = ("cross", "isolated", "none")
#: The cap of an account that is not given one, and its notional over initial margin.
MAX_GROSS_LEVERAGE, LEVERAGE = 3.0, 5.0


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

    def array(self) -> Floats:
        """As `trading.AS_TAKER` and so on."""
        margined = self.margin_mode != "none"
        return np.array(
            [
                self.costs.liquidity == "taker",
                self.costs.slippage,
                math.inf if self.participation is None else self.participation,
                math.inf if self.max_gross_leverage is None else self.max_gross_leverage,
                self.leverage if margined else 0.0,
                self.margin_mode == "isolated",
                -1.0 if self.liquidation_fee is None else self.liquidation_fee,
                POLICIES[self.missing_funding],
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
        }
