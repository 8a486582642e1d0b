import pytest

from qlib_crypto.errors import ConfigError
from qlib_crypto.settings import Settings, load_settings
from qlib_crypto.symbols import Venue


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_committed_config_says_the_defaults(root):
    assert load_settings(root / "config.yaml").model_dump() == Settings().model_dump()


def test_options_beat_environment_beat_dotenv_beat_file(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("reports_dir: file\nlake_dir: file\nprovider_dir: file\ntracking_uri: file\n")
    (tmp_path / ".env").write_text(
        "QLIB_CRYPTO_LAKE_DIR=dotenv\nQLIB_CRYPTO_PROVIDER_DIR=dotenv\nQLIB_CRYPTO_TRACKING_URI=dotenv\n"
    )
    monkeypatch.setenv("QLIB_CRYPTO_PROVIDER_DIR", "env")
    monkeypatch.setenv("QLIB_CRYPTO_TRACKING_URI", "env")
    settings = load_settings(options={"tracking_uri": "option", "lake_dir": None})
    assert str(settings.reports_dir) == "file"
    assert str(settings.lake_dir) == "dotenv"
    assert str(settings.provider_dir) == "env"
    assert settings.tracking_uri == "option"


def test_nested_environment(monkeypatch):
    monkeypatch.setenv("QLIB_CRYPTO_UNIVERSE__SIZE", "30")
    monkeypatch.setenv("QLIB_CRYPTO_OKX__RATE_SCALE", "2")
    monkeypatch.setenv("QLIB_CRYPTO_SCHEDULE__RANK_EVERY_HOURS", "4")
    monkeypatch.setenv("QLIB_CRYPTO_OKX__BOOK_DEPTH", "20")
    settings = load_settings()
    assert (settings.schedule.rank_every_hours, settings.okx.book_depth) == (4, 20)
    assert settings.universe.size == 30
    assert settings.venue(Venue.OKX).rate_scale == 2


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("univers: {size: 3}", "univers"),
        ("okx: {interval: 7m}", "7m"),
        ("okx: {symbols: top10}", "top10"),
        ("universe: {size: none}", "universe.size"),
        ("a: [", "not valid YAML"),
        ("schedule: {convert_at: '24:00'}", "convert_at"),
        ("schedule: {rank_every_hours: 5}", "rank_every_hours.*1, 2, 3, 4, 6, 8, 12 or 24"),
        ("schedule: {repair_every_hours: 7}", "repair_every_hours"),
        ("schedule: {instruments_every_hours: '9'}", "instruments_every_hours"),
        ("- a", r"config.yaml as `key: value` lines"),
    ],
)
def test_a_wrong_key_or_value_names_file_and_key(tmp_path, text, match):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=match) as error:
        load_settings()
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_and_a_variable_that_is_no_json_are_told(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_settings()
    (tmp_path / "config.yaml").unlink()
    monkeypatch.setenv("QLIB_CRYPTO_OKX", "nonsense")
    with pytest.raises(ConfigError, match="okx"):
        load_settings()


def test_a_named_file_must_exist(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_settings(tmp_path / "other.yaml")


def test_one_endpoint_serves_rest_and_websocket():
    part = load_settings().okx.at("http://127.0.0.1:8180/")
    assert (part.rest_url, part.ws_url) == ("http://127.0.0.1:8180", "ws://127.0.0.1:8180")
    with pytest.raises(ConfigError):
        part.at("127.0.0.1:8180")
