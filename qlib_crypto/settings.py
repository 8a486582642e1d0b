"""The user's settings: `config.yaml`, overridden by `QLIB_CRYPTO_*`, overridden by options; frozen.

Read once at the entry point by `load_settings` and passed down; nothing below reads the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.functional_validators import BeforeValidator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from qlib_crypto.errors import ConfigError
from qlib_crypto.settings_errors import told
from qlib_crypto.settings_values import (
    Address,
    BookDepth,
    CandleName,
    EveryHours,
    IntervalName,
    LocalFolder,
    Symbols,
)  # fmt: skip
from qlib_crypto.symbols import Venue


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


#: What can be collected beside candles and funding; `trades` and `books` are bulky and off unless asked for.
DatasetName = Literal["mark", "index", "open_interest", "long_short_ratio", "liquidations", "trades", "books"]


class VenueSettings(_Part):
    """One venue: what to collect from where. `rate_scale` multiplies the published request limits.

    Attributes
    ----------
    region
        Chooses the venue's hosts; an address that is given itself wins.
    rest_url, ws_url, archive_url
        Where REST, websocket and the bulk files are.
    proxy
        `http://host:port` for REST, websocket and bulk files alike; loopback is always reached directly.
    datasets
        What is collected beside candles, settled funding and its estimates.
    book_depth, book_every_s
        Levels of a book snapshot, and market seconds between two.
    grace_hours
        So long a contract that left the universe is still collected.
    timer_scale
        Multiplies every wait of the protocol (back-off, silence, time-outs); below 1 only against a fast sandbox.

    """

    regions: ClassVar[Mapping[str, tuple[str, str]]]

    enabled: bool = True
    symbols: Symbols = "top50"
    interval: CandleName = "1m"
    region: str = "global"
    rest_url: str = ""
    ws_url: str = ""
    archive_url: str = ""
    proxy: str | None = None
    rate_scale: float = Field(default=1.0, gt=0)
    timer_scale: float = Field(default=1.0, gt=0)
    datasets: tuple[DatasetName, ...] = ("mark", "index", "open_interest", "long_short_ratio", "liquidations")
    book_depth: BookDepth = 5
    book_every_s: float = Field(default=10.0, gt=0)
    grace_hours: float = Field(default=24.0, ge=0)

    @model_validator(mode="after")
    def _hosts(self) -> Self:
        """Fill in the region's addresses where none is given."""
        if self.region not in self.regions:
            raise ValueError(f"region {self.region!r}: choose one of {' '.join(self.regions)}")
        rest, ws = self.regions[self.region]
        for name, value in (("rest_url", rest), ("ws_url", ws)):
            if not getattr(self, name):
                object.__setattr__(self, name, value)  # frozen for everybody else
        return self

    def at(self, endpoint: str | None) -> VenueSettings:
        """These settings with one address for REST and websocket, such as `http://127.0.0.1:8180`."""
        if endpoint is None:
            return self
        if not endpoint.startswith(("http://", "https://")):
            raise ConfigError(f"endpoint {endpoint!r}: write a URL such as http://127.0.0.1:8180")
        url = endpoint.rstrip("/")
        return self.model_copy(
            update={"rest_url": url, "ws_url": url.replace("http", "ws", 1), "archive_url": url, "proxy": None}
        )


class OkxSettings(VenueSettings):
    regions: ClassVar[Mapping[str, tuple[str, str]]] = {
        "global": ("https://www.okx.com", "wss://ws.okx.com:8443"),
        "eea": ("https://eea.okx.com", "wss://wseea.okx.com:8443"),
        "us": ("https://us.okx.com", "wss://wsus.okx.com:8443"),
    }
    #: Links to bulk files come from REST and lead here.
    archive_url: str = "https://static.okx.com"


class BinanceSettings(VenueSettings):
    regions: ClassVar[Mapping[str, tuple[str, str]]] = {
        "global": ("https://fapi.binance.com", "wss://fstream.binance.com"),
    }
    archive_url: str = "https://data.binance.vision"


class UniverseSettings(_Part):
    """The universe: the `size` perpetuals with the largest absolute funding rate."""

    size: int = Field(default=50, ge=1)
    per_8h: bool = False


class ProviderSettings(_Part):
    """Which bar lengths the Qlib provider stores, and how far its future calendar reaches."""

    intervals: tuple[IntervalName, ...] = ("1m", "5m", "15m", "1h", "4h", "1d")
    future_days: int = Field(default=7, ge=2)


class WorkflowSchedule(_Part):
    """A workflow file that the daemon runs by cron, five fields of market time UTC; the rest are options of `run`."""

    workflow: str
    cron: str
    fit_segments: bool = False
    vars: dict[str, Annotated[str, BeforeValidator(str)]] = Field(default_factory=dict)


class ScheduleSettings(_Part):
    """When the daemon works, market time UTC.

    Attributes
    ----------
    rank_every_hours, rank_offset_minutes
        Rankings, so long after the settlement hours counted from 00:00.
    repair_every_hours, repair_offset_minutes
        Missing rows are asked for.
    convert_at, convert_delay_minutes
        Seal and convert daily at this time plus the delay.
    convert_every_hours
        24 as above; 1 to 12 converts so often, the delay after the hour.
    instruments_every_hours
        The instruments table is stored, also whenever a ranking or a collector's start reads it.
    push
        An fsspec address; what is sealed of a venue is pushed there after each seal.
    upkeep_at
        Daily: reconciliation with REST and archive, content check, retention.
    workflows
        Workflow runs by cron expression.

    """

    rank_every_hours: EveryHours = 8
    rank_offset_minutes: int = Field(default=5, ge=0)
    repair_every_hours: EveryHours = 1
    repair_offset_minutes: int = Field(default=3, ge=0)
    convert_at: str = Field(default="00:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    convert_delay_minutes: int = Field(default=10, ge=0)
    convert_every_hours: EveryHours = 24
    instruments_every_hours: EveryHours = 24
    push: Address = ""
    upkeep_at: str = Field(default="02:30", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    workflows: tuple[WorkflowSchedule, ...] = ()


class RetentionSettings(_Part):
    """How long bulky captures (trades, books) stay, and when day files become monthly ones.

    Whatever a field of the provider is made of stays for ever, and instruments, rankings and the ledger.
    """

    bulky_days: int = Field(default=90, ge=1)
    compact_after_days: int = Field(default=90, ge=1)


class WatchSettings(_Part):
    """What the daemon measures and when it alerts.

    Attributes
    ----------
    metrics_port
        Prometheus metrics on 127.0.0.1; 0 for none.
    lag_minutes
        An instrument whose newest bar is older is late.
    disk_free_gb
        Less free disk than this is an alert.
    repeat_hours
        The same alert is not sent again before.

    """

    metrics_port: int = Field(default=9464, ge=0, le=65535)
    lag_minutes: float = Field(default=10.0, gt=0)
    disk_free_gb: float = Field(default=5.0, ge=0)
    repeat_hours: float = Field(default=6.0, gt=0)


class Settings(BaseSettings):
    """All settings; see `config.yaml` for the meaning of each."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="QLIB_CRYPTO_",
        env_nested_delimiter="__",
        env_file=".env",
        env_ignore_empty=True,  # containers hand on a variable that nobody set as an empty one
    )

    lake_dir: LocalFolder = Path()
    provider_dir: Path = Path("qlib_data")
    reports_dir: Path = Path("reports")
    tracking_uri: str = "sqlite:///mlruns.db"
    okx: OkxSettings = OkxSettings()
    binance: BinanceSettings = BinanceSettings()
    universe: UniverseSettings = UniverseSettings()
    provider: ProviderSettings = ProviderSettings()
    #: Markets of your own: files with an instrument, its first and its last time a line, by the market's name.
    markets: dict[str, Path] = {}
    schedule: ScheduleSettings = ScheduleSettings()
    retention: RetentionSettings = RetentionSettings()
    watch: WatchSettings = WatchSettings()
    #: Apprise addresses, separated by spaces or commas; from the environment only, never logged.
    alert_urls: SecretStr = SecretStr("")

    def venue(self, venue: Venue) -> VenueSettings:
        """The settings of one venue."""
        return self.okx if venue is Venue.OKX else self.binance

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options first, then the environment, then `.env`, then the YAML file."""
        return init_settings, env_settings, dotenv_settings, YamlConfigSettingsSource(settings_cls)


def load_settings(path: Path | None = None, *, options: Mapping[str, Any] | None = None) -> Settings:
    """The validated settings.

    Parameters
    ----------
    path
        The YAML file; `config.yaml` of the working directory when None, and defaults when that is missing.
    options
        Values given on the command line, by top-level key; None values are ignored.

    Raises
    ------
    ConfigError
        A key is unknown or a value impossible; the message names file, key and value.

    """
    if path is not None and not path.is_file():
        raise ConfigError(f"settings file {path} does not exist; give an existing file or leave --config out")
    file = path or Path("config.yaml")
    bound = type(
        "_Settings", (Settings,), {"model_config": SettingsConfigDict(**{**Settings.model_config, "yaml_file": file})}
    )
    try:
        settings: Settings = bound(**{k: v for k, v in (options or {}).items() if v is not None})
    except ValidationError as error:
        raise ConfigError(f"{told(error, Settings)}; correct {file} or QLIB_CRYPTO_*") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    except (TypeError, ValueError) as error:  # a list, bytes that are no text, a variable that is no JSON
        raise ConfigError(
            f"settings cannot be read ({' '.join(str(error).split())}); write {file} as `key: value` lines in UTF-8, "
            "and QLIB_CRYPTO_* variables as values"
        ) from None
    return settings
