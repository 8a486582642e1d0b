"""What a trade costs beside its price: fees of the time, and slippage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.backtest.slippage import Slippage
from qlib_crypto.clock import iso
from qlib_crypto.market.fees import PRESETS, SIMPLE_SLIPPAGE, FeeRates, FeeSchedule, fee_schedule

#: Rates where none are given.
USUAL = PRESETS["okx_vip0"]


@dataclass(frozen=True, slots=True)
class Costs:
    """Fees by time, `taker` or `maker` as what orders pay, and how much worse they fill."""

    fees: FeeSchedule
    liquidity: str
    slippage: Slippage

    @classmethod
    def of(
        cls,
        fees: str | Sequence[Mapping[str, Any]] | None,
        taker_fee: float | None,
        maker_fee: float | None,
        liquidity: str,
        slippage: Slippage | float | Mapping[str, Any] | None,
    ) -> Costs:
        """From the keyword arguments of `PerpExchange`."""
        if fees is not None:
            schedule = fee_schedule(fees, "exchange.fees")
        else:
            maker = USUAL.maker if maker_fee is None else float(maker_fee)
            schedule = FeeSchedule(((0, FeeRates(maker, USUAL.taker if taker_fee is None else float(taker_fee))),))
        if slippage is None:
            slippage = SIMPLE_SLIPPAGE if fees == "simple" else 0.0
        return cls(schedule, liquidity, Slippage.of(slippage))

    def rate(self, time_ms: int, *, liquidity: str | None = None) -> float:
        """The fee of a trade at a time, as a fraction of its notional."""
        rates = self.fees.at(time_ms)
        return rates.taker if (liquidity or self.liquidity) == "taker" else rates.maker

    def rates(self, times_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        """The taker's and the maker's fee at ascending times, shape (2, n)."""
        out = np.empty((2, len(times_ms)))
        for number, (since, rates) in enumerate(self.fees.changes):
            first = np.searchsorted(times_ms, since) if number else 0
            out[0, first:], out[1, first:] = rates.taker, rates.maker
        return out

    def told(self) -> dict[str, float | str]:
        """For the assumptions of a run."""
        return {
            "taker_fee": self._dated("taker"),
            "maker_fee": self._dated("maker"),
            "fee_paid": self.liquidity,
            "slippage": self.slippage.told(),
        }

    def _dated(self, side: str) -> float | str:
        rates = [(since, float(getattr(rates, side))) for since, rates in self.fees.changes]
        if len(rates) == 1:
            return rates[0][1]
        return ", ".join(f"{rate:.6g} since {iso(since)}" for since, rate in rates)
