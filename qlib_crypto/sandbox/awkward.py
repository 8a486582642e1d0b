"""Instruments that no tape has but every venue lists, to catch a client that takes each row for a coin.

They carry tempting funding rates and hardly any bars; a universe of live, linear, crypto perpetuals has none of them.
"""

from __future__ import annotations

from typing import Any

from qlib_crypto.clock import HOUR_MS
from qlib_crypto.sandbox.okx_rows import instrument_row
from qlib_crypto.sandbox.text import padded, plain

#: OKX ids that trade although no universe wants them, with their tempting funding rates.
OKX_RATES = {
    "BTC-USD-SWAP": 0.0031,
    "BTC-USD_UM-SWAP": 0.0032,
    "XSTOCK-USDT-SWAP": 0.0033,
    "XPRE-USDT-SWAP": 0.0200,
}
BINANCE_RATES = {"XSTOCKUSDT": 0.0041, "BTCUSDT_260925": 0.0}
#: A COIN-M symbol that the merged `!…@arr` streams mix in.
COIN_M = "BTCUSD_PERP"
NON_ASCII = "币安人生USDT"
_FAR_FUTURE = 4133404800000
_LISTED = 1577836800000
INTERVAL_MS = 8 * HOUR_MS


def _okx_swaps() -> list[dict[str, Any]]:
    """Rows of `instType=SWAP`: inverse, USD-margined, stock, pre-market, preopen, a placeholder and an empty id."""
    common = {
        "category": "1",
        "ctMult": "1",
        "tickSz": "0.1",
        "lotSz": "1",
        "minSz": "1",
        "lever": "50",
        "state": "live",
        "ruleType": "normal",
        "listTime": str(_LISTED),
        "instCategory": "1",
    }
    usd = {"ctVal": "100", "ctValCcy": "USD", "ctType": "inverse", "settleCcy": "BTC"}
    coin = {"ctVal": "0.1", "ctType": "linear", "settleCcy": "USDT"}
    return [
        instrument_row(**common, **usd, instId="BTC-USD-SWAP", instFamily="BTC-USD", uly="BTC-USD"),
        instrument_row(
            **common,
            **{**coin, "settleCcy": "USD"},
            ctValCcy="BTC",
            instId="BTC-USD_UM-SWAP",
            instFamily="BTC-USD_UM",
            uly="BTC-USD",
        ),
        instrument_row(
            **{**common, "instCategory": "3"},
            **coin,
            ctValCcy="XSTOCK",
            instId="XSTOCK-USDT-SWAP",
            instFamily="XSTOCK-USDT",
            uly="XSTOCK-USDT",
        ),
        instrument_row(
            **{**common, "ruleType": "pre_market"},
            **coin,
            ctValCcy="XPRE",
            instId="XPRE-USDT-SWAP",
            instFamily="XPRE-USDT",
            uly="XPRE-USDT",
        ),
        instrument_row(instId="XNEW-USDT-SWAP", state="preopen"),
        instrument_row(instId="LISTING-SWAP-SLX-USDT", state="preopen"),
        instrument_row(instId="", state="preopen"),
    ]


def okx_instruments(kind: str) -> list[dict[str, Any]]:
    """Instrument rows of an `instType`: among the spot pairs a placeholder, among the futures a five-year perpetual."""
    if kind == "SWAP":
        return _okx_swaps()
    if kind == "SPOT":
        return [instrument_row(instId="LISTING-SPOT-SLX-USDT", instType=kind, state="preopen")]
    if kind == "FUTURES":
        family = "BTC-USD_UM_XPERP"
        known = {"ctType": "linear", "settleCcy": "USD", "ctVal": "0.0001", "ctValCcy": "BTC", "ruleType": "xperp"}
        inst_id = f"{family}-310404"
        return [instrument_row(**known, instId=inst_id, instFamily=family, uly="BTC-USD", instType=kind, state="live")]
    return []


def okx_funding(at_ms: int) -> list[dict[str, str]]:
    """Funding rows of `OKX_RATES`, as short as some clients meet them."""
    settles = at_ms - at_ms % INTERVAL_MS + INTERVAL_MS
    return [
        {
            "formulaType": "noRate",
            "fundingRate": plain(rate),
            "fundingTime": str(settles),
            "instId": inst_id,
            "instType": "SWAP",
            "method": "current_period",
            "nextFundingTime": str(settles + INTERVAL_MS),
            "settFundingRate": plain(rate),
            "settState": "settled",
            "ts": str(at_ms),
        }
        for inst_id, rate in OKX_RATES.items()
    ]


def _binance(symbol: str, base: str, **other: Any) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "pair": f"{base}USDT",
        "contractType": "PERPETUAL",
        "deliveryDate": _FAR_FUTURE,
        "onboardDate": _LISTED,
        "status": "TRADING",
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": base,
        "quoteAsset": "USDT",
        "marginAsset": "USDT",
        "pricePrecision": 2,
        "quantityPrecision": 3,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "triggerProtect": "0.0500",
        "liquidationFee": "0.012500",
        "marketTakeBound": "0.05",
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000", "tickSize": "0.01"},
            {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "1000", "stepSize": "0.001"},
            {"filterType": "MIN_NOTIONAL", "notional": "5"},
        ],
        "orderTypes": ["LIMIT", "MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
        **other,
    }


def binance_symbols() -> list[dict[str, Any]]:
    """Rows of exchangeInfo: a stock perpetual, a dated contract, a non-ASCII symbol in delivery, a pending one."""
    return [
        _binance("XSTOCKUSDT", "XSTOCK", contractType="TRADIFI_PERPETUAL", underlyingType="EQUITY"),
        _binance("BTCUSDT_260925", "BTC", contractType="CURRENT_QUARTER", deliveryDate=1790323200000),
        _binance(NON_ASCII, NON_ASCII.removesuffix("USDT"), status="SETTLING", deliveryDate=_LISTED),
        _binance("XNEWUSDT", "XNEW", contractType="", status="PENDING_TRADING"),
    ]


def binance_premium(at_ms: int) -> list[dict[str, Any]]:
    """Rows of premiumIndex for `BINANCE_RATES`."""
    settles = at_ms - at_ms % INTERVAL_MS + INTERVAL_MS
    return [
        {
            "symbol": symbol,
            "markPrice": "100.00000000",
            "indexPrice": "100.00000000",
            "estimatedSettlePrice": "100.00000000",
            "lastFundingRate": padded(rate, 8),
            "interestRate": "0.00010000",
            "nextFundingTime": 0 if "_" in symbol else settles,
            "time": at_ms,
        }
        for symbol, rate in BINANCE_RATES.items()
    ]
