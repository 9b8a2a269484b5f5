"""Settings: the table of `YARD_…` variables. Parsing, checks, docs and `yard settings` derive from it."""

import os
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_args

import msgspec
import platformdirs

from modelyard.documents import default_of, field_docs
from modelyard.host import setting_values as values
from modelyard.host.paths import has_inside
from modelyard.host.setting_values import ValueKind
from schemas.base import Record

T = TypeVar("T")

DEFAULT_STORE = "models"


class SettingsError(Exception):
    """A setting is wrong; the message is one sentence for the person who set it."""


class Setting(NamedTuple):
    """What the table holds beside a setting's name, type, default and meaning (the field's docstring)."""

    kind: ValueKind[Any]
    absent: Callable[[], object] | None = None
    """The value where the variable is not set and the default depends on the machine."""
    default: str | None = None
    """The default for people, where it is not a constant."""
    variable: str | None = None
    """Where it is not `YARD_` and the name."""


def _default_home() -> Path:
    return platformdirs.user_data_path("modelyard")


def _default_node() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "local"


class Settings(Record):
    """The settings of one process."""

    home: Annotated[Path, Setting(values.HOME, absent=_default_home, default="the platform's data folder")]
    """Folder of models, broker data, credentials and logs."""
    stores: Annotated[dict[str, Path], Setting(values.STORES, default="models=YARD_HOME/models")] = (
        msgspec.field(default_factory=dict)
    )
    """Folders of model files, such as `ssd=/models,disk=/srv/models`; downloads go to the first."""
    host: Annotated[str, Setting(values.TEXT)] = "127.0.0.1"
    """Address on which the gateway listens; beyond loopback only with API keys."""
    port: Annotated[int, Setting(values.PORT)] = 8080
    """Port of the gateway; 0 takes any free one."""
    nats_url: Annotated[str | None, Setting(values.BROKER_URL)] = None
    """A running broker to use; unset, `yard up` starts its own."""
    nats_port: Annotated[int, Setting(values.PORT)] = 4222
    """Port of the broker that `yard up` starts; 0 takes any free one."""
    nats_host: Annotated[str, Setting(values.LISTEN_ADDRESS)] = "127.0.0.1"
    """Address of the broker that `yard up` starts; beyond loopback other machines can join, as with `yard
    up --listen`."""
    joined: Annotated[bool, Setting(values.YES_NO)] = False
    """Set by `yard up --join`: usage is counted and models are pulled on the first machine."""
    llama_server: Annotated[Path | None, Setting(values.EXECUTABLE, default="`llama-server` on PATH")] = None
    """A llama-server to use; without any, the embedded engine."""
    vllm: Annotated[Path | None, Setting(values.EXECUTABLE, default="`vllm` on PATH")] = None
    """A vllm to use; it may live in a virtual environment of its own."""
    rpc_server: Annotated[
        Path | None, Setting(values.EXECUTABLE, default="beside `llama-server`, or on PATH")
    ] = None
    """RPC server of llama.cpp, for models spread over nodes."""
    rpc_host: Annotated[str, Setting(values.OWN_ADDRESS)] = "127.0.0.1"
    """Address at which other nodes reach RPC workers here; on loopback none can."""
    peer_host: Annotated[
        str | None, Setting(values.OWN_ADDRESS, default="the address by which the broker is reached")
    ] = None
    """Address at which other nodes fetch files from this one."""
    peer_port: Annotated[int, Setting(values.PORT)] = 0
    """Port at which other nodes fetch files; 0 takes any free one."""
    node: Annotated[str, Setting(values.NODE, absent=_default_node, default="the host name")] = "local"
    """Name of this machine."""
    allowed_hosts: Annotated[tuple[str, ...], Setting(values.NAMES)] = ()
    """More host names by which browsers may reach the gateway, comma separated."""
    memory_limits: Annotated[dict[str, int], Setting(values.MEMORY_LIMITS, default="what is free")] = (
        msgspec.field(default_factory=dict)
    )
    """Memory that models may use of a device, such as `cpu=8GiB,GPU-5a1c…=20GiB`; a GPU by its UUID."""
    swap_max_wait_s: Annotated[float, Setting(values.SECONDS)] = 20.0
    """Seconds after which a waiting model takes the memory of one that is in use."""
    swap_min_dwell_s: Annotated[float, Setting(values.SECONDS)] = 5.0
    """Seconds that a ready model stays at least."""
    hang_s: Annotated[float, Setting(values.SECONDS)] = 60.0
    """Seconds without a sign of life after which an engine is restarted; 0: never."""
    downloads_at_once: Annotated[int, Setting(values.COUNT)] = 2
    """Downloads that run at a time on this machine; others wait."""
    download_segments: Annotated[int, Setting(values.COUNT)] = 4
    """Parts of a large file that are fetched in parallel."""
    download_limit_bytes_s: Annotated[
        int | None, Setting(values.RATE, default="no limit", variable="YARD_DOWNLOAD_LIMIT")
    ] = None
    """Bytes per second of all downloads of this machine together, such as `20MiB`."""
    fetch: Annotated[bool, Setting(values.YES_NO)] = True
    """Whether the files of a model that can run nowhere else are fetched automatically, from another
    machine or the hub: `yes` or `no`."""
    disk_margin_bytes: Annotated[int, Setting(values.SIZE, variable="YARD_DISK_MARGIN")] = 512 * 2**20
    """Disk space that downloads leave free, such as `10GiB`."""
    time_zone: Annotated[str, Setting(values.TIME_ZONE)] = "UTC"
    """IANA time zone whose days usage, spend and budgets are counted by."""
    currency: Annotated[str, Setting(values.CURRENCY)] = "EUR"
    """Currency of prices; a label, nothing is converted."""
    usage_keep_days: Annotated[float, Setting(values.DAYS)] = 400.0
    """Days for which single usage records are stored; 0: for ever."""
    usage_keep_mib: Annotated[float, Setting(values.MIB)] = 4096.0
    """Size in MiB at which `usage.sqlite` drops its oldest records; 0: no limit."""
    trends_keep_days: Annotated[float, Setting(values.DAYS)] = 3650.0
    """Days for which sums of usage and samples of disks are stored; 0: for ever."""
    simulated_devices: Annotated[Path | None, Setting(values.DEVICE_FILE)] = None
    """A file (YAML, TOML or JSON) of simulated devices, for demonstrations and tests; they are marked
    everywhere."""
    log_level: Annotated[str, Setting(values.LOG_LEVEL)] = "info"
    """`debug`, `info`, `warning` or `error`."""

    @property
    def all_stores(self) -> dict[str, Path]:
        """The stores by name; without a setting the one in the home."""
        return self.stores or {DEFAULT_STORE: self.home / DEFAULT_STORE}

    @property
    def models(self) -> Path:
        """The store that downloads go to."""
        return next(iter(self.all_stores.values()))

    def store_of(self, path: str) -> Path:
        """The first store that has a model's `path`; the first of all if none has it."""
        return next((root for root in self.all_stores.values() if has_inside(root, path)), self.models)

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def credentials(self) -> Path:
        return self.home / "keys"

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def engine_plugins(self) -> Path:
        return self.home / "plugins" / "engines"

    @property
    def device_plugins(self) -> Path:
        return self.home / "plugins" / "devices"

    def as_environment(self) -> dict[str, str]:
        """The variables from which a child process reads these settings."""
        texts = {entry.variable: entry.written(getattr(self, entry.field)) for entry in TABLE}
        return {variable: text for variable, text in texts.items() if text}


class TableEntry(NamedTuple):
    field: str
    variable: str
    setting: Setting
    default: object
    """NODEFAULT where it depends on the machine."""

    def written(self, value: object) -> str:
        """The variable's text for a value; empty for none."""
        return "" if value is None else self.setting.kind.write(value)

    @property
    def meaning(self) -> str:
        return field_docs(Settings)[self.field].replace("\n", " ")

    @property
    def default_text(self) -> str:
        """The default for people; empty for none."""
        return self.setting.default or self.written(self.default)


def _entry(field: msgspec.structs.FieldInfo) -> TableEntry:
    setting: Setting = get_args(field.type)[1]
    return TableEntry(
        field=field.name,
        variable=setting.variable or f"YARD_{field.name.upper()}",
        setting=setting,
        default=default_of(field),
    )


TABLE = tuple(map(_entry, msgspec.structs.fields(Settings)))
KNOWN = frozenset(entry.variable for entry in TABLE)
"""The names of all settings."""
LIBRARY_VARIABLES = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "OpenTelemetry collector of spans and metrics; needs `modelyard[otel]`.",
    "HF_ENDPOINT": "The hub to download from, as in the hub's own library.",
    "HF_TOKEN": "Token for the hub, as in the hub's own library.",
}
"""Variables of other programs that a yard reads, too."""


def unknown(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Variables with the prefix of a setting that are none: most likely misspelt."""
    return sorted(name for name in environ if name.startswith("YARD_") and name not in KNOWN)


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; SettingsError with one sentence for the first wrong one."""
    fields = {entry.field: value for entry in TABLE if (value := _read(entry, environ)) is not None}
    return Settings(**fields)


def _read(entry: TableEntry, environ: Mapping[str, str]) -> Any:
    absent = entry.setting.absent
    text = environ.get(entry.variable, "").strip() or (str(absent()) if absent else "")
    return parse(entry.setting.kind.parse, text, entry.variable) if text else None


def parse(read: Callable[[str], T], text: str, name: str) -> T:
    """The value of `text`; SettingsError that begins with `name` if it is wrong."""
    try:
        return read(text)
    except ValueError as error:
        raise SettingsError(f"{name}={text}{error}") from None


def address(text: str, name: str) -> str:
    """An address to listen on; SettingsError that begins with `name` if it is none."""
    return parse(values.parse_listen_address, text, name)
