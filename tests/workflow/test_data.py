"""What a provider may lack, and what the user is told to do."""

from __future__ import annotations

import pytest

from qlib_crypto.errors import ConfigError
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
