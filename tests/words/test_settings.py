import pytest
import yaml

from qlib_crypto.daemon.schedule import scheduled
from qlib_crypto.errors import ConfigError
from qlib_crypto.settings import ScheduleSettings, Settings, load_settings
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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("univers: {size: 3}", "setting univers is unknown; did you mean universe?"),
        ("okx: {intervall: 1m}", "setting okx.intervall is unknown; did you mean interval?"),
        (
            "schedule: {workflows: [{workflow: a, cron: b, fit_segment: true}]}",
            "setting schedule.workflows.0.fit_segment is unknown; did you mean fit_segments?",
        ),
        ("universe: {zzz: 1}", "setting universe.zzz is unknown; known: per_8h, size;"),
        ("okx: {interval: 7m}", "setting okx.interval: interval '7m'"),
    ],
)
def test_an_unknown_key_is_told_with_the_one_that_is_near(tmp_path, text, said):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_settings()
    assert str(error.value).startswith(said)


def test_a_misspelt_name_in_dotenv_is_told_with_the_one_that_is_near(tmp_path):
    (tmp_path / ".env").write_text("QLIB_CRYPTO_ALERT_URL=x\n")
    with pytest.raises(ConfigError, match=r"did you mean alert_urls\?"):
        load_settings()


def test_an_empty_variable_leaves_dotenv_in_force(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("QLIB_CRYPTO_ALERT_URLS=json://127.0.0.1:1\n")
    monkeypatch.setenv("QLIB_CRYPTO_ALERT_URLS", "")
    assert load_settings().alert_urls.get_secret_value() == "json://127.0.0.1:1"


def test_the_example_of_a_scheduled_workflow_is_one_that_works(root):
    lines = (root / "config.yaml").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.strip().startswith("# workflows:"))
    text = "\n".join(line.replace("#", " ", 1) for line in lines[first : first + 2])
    schedule = ScheduleSettings(**yaml.safe_load(text))
    assert scheduled(schedule, [])[-1].arguments == {
        "workflow": "workflows/lightgbm_60min.yaml", "fit_segments": "true", "var.MISSING_FUNDING": "untradable",
    }  # fmt: skip
    assert (root / schedule.workflows[0].workflow).is_file()


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
