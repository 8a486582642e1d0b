"""What a provider may lack, and what the user is told to do."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from support_provider import synthetic_bars, write_provider

from qlib_crypto.errors import ConfigError, DataError
from qlib_crypto.provider.manifest import read_manifest, write_manifest
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.workflow.check import check_workflow
from qlib_crypto.workflow.data import check_data
from qlib_crypto.workflow.template import render


def test_a_configured_interval_without_a_complete_bar_is_to_be_collected_not_configured(
    root, hourly_provider, tmp_path
):
    manifest = read_manifest(hourly_provider)
    provider = tmp_path / "provider"
    provider.mkdir()
    write_manifest(provider, manifest.model_copy(update={"settings": ProviderSettings(intervals=("5m", "1h"))}))
    path = root / "workflows" / "lightgbm_5min.yaml"
    with pytest.raises(ConfigError, match=r"5min bars are not stored .*no complete bar of it: back-fill or collect 5m"):
        check_data(check_workflow(path, render(path, {"PROVIDER_URI": str(provider)})))


@pytest.mark.parametrize("market", ["top50", "top50_60min"])
def test_the_market_of_the_ranked_needs_a_ranking(root, hourly_provider, module_span, market):
    path = root / "workflows" / "lightgbm_60min.yaml"
    config = render(path, {**module_span, "PROVIDER_URI": str(hourly_provider), "MARKET": market})
    with pytest.raises(ConfigError, match=r"no ranking.*qlib-crypto rank, .*such as (okx|all)_60min"):
        check_data(check_workflow(path, config))


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("2025-02-01 00:00:00", "starts at 2025-02-01 00:00:00, before train ends, but a label looks 2 bars ahead"),
        ("2025-02-06 00:00:00", "1 bar after train ends"),
    ],
)
def test_segments_that_touch_or_overlap_are_told_in_words(root, hourly_provider, module_span, start, words):
    path = root / "workflows" / "lightgbm_60min.yaml"
    config = render(path, {**module_span, "PROVIDER_URI": str(hourly_provider), "VALID_START": start})
    with pytest.raises(ConfigError, match=words):
        check_workflow(path, config)


@pytest.mark.parametrize(("missing", "warned"), [("error", True), ("untradable", False)])
def test_instruments_without_any_funding_in_the_test_are_named_before_training(
    root, tmp_path, module_span, caplog, missing, warned
):
    frames = synthetic_bars(symbols=6)
    frames["ETH_USDT.OKX"].loc["2025-02-15":"2025-02-28", "funding"] = np.nan
    frames["SOL_USDT.OKX"].loc["2025-02-15":"2025-02-28 22:00", "funding"] = np.nan  # its last bar is known
    frames["XRP_USDT.OKX"] = frames["XRP_USDT.OKX"].loc["2025-02-20":].assign(funding=np.nan)
    provider = write_provider(tmp_path / "provider", frames, "60min")
    path = root / "workflows" / "lightgbm_60min.yaml"
    variables = {**module_span, "PROVIDER_URI": str(provider), "MISSING_FUNDING": missing}
    check_data(check_workflow(path, render(path, variables)))
    said = [r.getMessage() for r in caplog.records if "no known funding" in r.getMessage()]
    assert bool(said) is warned
    if warned:
        assert "2 instruments in the test segment (ETH_USDT.OKX, XRP_USDT.OKX): the backtest stops" in said[0]


@pytest.mark.parametrize("name", ["../../evil", "a/b", " ", ".."])
def test_a_name_that_is_no_folder_is_refused(root, hourly_provider, module_span, name):
    path = root / "workflows" / "lightgbm_60min.yaml"
    config = render(path, {**module_span, "PROVIDER_URI": str(hourly_provider), "NAME": name})
    with pytest.raises(ConfigError, match=r"experiment_name .* folder of reports"):
        check_workflow(path, config)


def test_a_market_of_other_bars_is_refused(root, hourly_provider, module_span, tmp_path):
    provider = tmp_path / "provider"
    shutil.copytree(hourly_provider, provider)
    manifest = read_manifest(provider)
    days = {**manifest.frequencies, "day": manifest.frequencies["60min"]}
    write_manifest(provider, manifest.model_copy(update={"frequencies": days}))
    shutil.copy(provider / "instruments" / "okx_60min.txt", provider / "instruments" / "okx_day.txt")
    path = root / "workflows" / "lightgbm_60min.yaml"
    config = render(path, {**module_span, "PROVIDER_URI": str(provider), "MARKET": "okx_day"})
    with pytest.raises(ConfigError, match="is of day bars, which the workflow does not use; write okx_60min"):
        check_data(check_workflow(path, config))


def test_a_label_of_an_unknown_field_is_refused(root, hourly_provider, module_span):
    path = root / "workflows" / "lightgbm_60min.yaml"
    config = render(path, {**module_span, "PROVIDER_URI": str(hourly_provider)})
    config["task"]["dataset"]["kwargs"]["handler"]["kwargs"]["label"] = "Ref($opne, -2)/Ref($open, -1) - 1"
    with pytest.raises(ConfigError, match=r"no field opne; did you mean open\?"):
        check_data(check_workflow(path, config))


def test_a_provider_of_an_older_version_is_to_be_converted(root, hourly_provider, module_span, tmp_path):
    provider = tmp_path / "provider"
    shutil.copytree(hourly_provider, provider)
    manifest = read_manifest(provider)
    write_manifest(provider, manifest.model_copy(update={"fields": tuple(f for f in manifest.fields if f != "vwap")}))
    path = root / "workflows" / "lightgbm_60min.yaml"
    with pytest.raises(DataError, match=r"lacks vwap: an older version made it; run: qlib-crypto convert"):
        check_data(check_workflow(path, render(path, {**module_span, "PROVIDER_URI": str(provider)})))
