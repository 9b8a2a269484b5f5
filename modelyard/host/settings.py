"""Settings: environment variables with the prefix `YARD_`, read once and checked."""

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec

from modelyard.host.paths import has_inside
from schemas.base import Record

DEFAULT_STORE = "models"


class SettingsError(Exception):
    """A setting is wrong; the message is one sentence for the person who set it."""


class Settings(Record):
    """Everything a process of Modelyard is told from outside."""

    home: Path
    """YARD_HOME: models, broker data, credentials, logs."""
    stores: dict[str, Path] = msgspec.field(default_factory=dict)
    """YARD_STORES: folders of model files, like `ssd=/models,disk=/srv/models`; downloads go to the first."""
    host: str = "127.0.0.1"
    """YARD_HOST: where the gateway listens."""
    port: int = 8080
    """YARD_PORT: the gateway's port; 0 takes any free one."""
    nats_url: str | None = None
    """YARD_NATS_URL: a broker that is there already; without it `yard up` starts its own."""
    nats_port: int = 4222
    """YARD_NATS_PORT: port of the broker that `yard up` starts; 0 takes any free one."""
    nats_host: str = "127.0.0.1"
    """YARD_NATS_HOST: address on which that broker listens; beyond loopback other machines can join."""
    joined: bool = False
    """YARD_JOINED: set by `yard up --join`: usage and pulls are left to the first machine."""
    llama_server: Path | None = None
    """YARD_LLAMA_SERVER: a llama-server to use; else the one on PATH, else the embedded one."""
    vllm: Path | None = None
    """YARD_VLLM: a vllm to use; else the one on PATH."""
    rpc_server: Path | None = None
    """YARD_RPC_SERVER: llama.cpp's RPC server; else the one beside llama-server, or on PATH."""
    rpc_host: str = "127.0.0.1"
    """YARD_RPC_HOST: this machine's address for parts of other nodes' models; on loopback there are none."""
    peer_host: str | None = None
    """YARD_PEER_HOST: this machine's address where other nodes fetch files; else as the broker is reached."""
    peer_port: int = 0
    """YARD_PEER_PORT: the port for that; 0 takes any free one."""
    node: str = "local"
    """YARD_NODE: name of this machine as a subject token; default its host name."""
    allowed_hosts: tuple[str, ...] = ()
    """YARD_ALLOWED_HOSTS: more host names, comma separated, under which browsers may reach the gateway."""
    memory_limits: dict[str, int] = msgspec.field(default_factory=dict)
    """YARD_MEMORY_LIMITS: what models may take of a device, such as `cpu=8GiB,GPU-5a1c…=20GiB`; by its id."""
    swap_max_wait_s: float = 20.0
    """YARD_SWAP_MAX_WAIT_S: after so long a waiting model takes the memory of one that is in use."""
    swap_min_dwell_s: float = 5.0
    """YARD_SWAP_MIN_DWELL_S: a model that got ready stays at least so long."""
    hang_s: float = 60.0
    """YARD_HANG_S: an engine that gives no sign of life for so long is ended and started again; 0: never."""
    downloads_at_once: int = 2
    """YARD_DOWNLOADS_AT_ONCE: so many downloads are at work on this machine, the others wait."""
    download_segments: int = 4
    """YARD_DOWNLOAD_SEGMENTS: so many parts of a large file come at the same time."""
    download_limit_bytes_s: int | None = None
    """YARD_DOWNLOAD_LIMIT: what this machine's downloads together take of the network a second: 20MiB."""
    fetch: bool = True
    """YARD_FETCH: whether a model's files are brought here by themselves where they are needed: yes or no."""
    disk_margin_bytes: int = 512 * 2**20
    """YARD_DISK_MARGIN: downloads leave so much of the disk free, such as 10GiB."""
    time_zone: str = "UTC"
    """YARD_TIME_ZONE: the IANA time zone whose days usage, spend and budgets are counted by."""
    currency: str = "EUR"
    """YARD_CURRENCY: what prices are in; a word beside numbers, nothing is converted."""
    usage_keep_days: float = 400.0
    """YARD_USAGE_KEEP_DAYS: how long single usage records are kept; 0: for ever."""
    usage_keep_mib: float = 4096.0
    """YARD_USAGE_KEEP_MIB: how large the file of usage may grow before the oldest records go; 0: no limit."""
    trends_keep_days: float = 3650.0
    """YARD_TRENDS_KEEP_DAYS: how long sums of usage and samples of disks are kept; 0: for ever."""
    simulated_devices: Path | None = None
    """YARD_SIMULATED_DEVICES: a file of devices that are not there, for demonstrations and tests."""
    log_level: str = "info"
    """YARD_LOG_LEVEL: debug, info, warning or error."""

    @property
    def all_stores(self) -> dict[str, Path]:
        """The stores by name; without a setting the one in the home."""
        return self.stores or {DEFAULT_STORE: self.home / DEFAULT_STORE}

    @property
    def models(self) -> Path:
        """The store that downloads go to."""
        return next(iter(self.all_stores.values()))

    def store_of(self, path: str) -> Path:
        """The first store that has `path`, which is a model's; the first of all if none has it."""
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
        """These settings as the variables that a child process reads them from."""
        values = {
            "YARD_HOME": str(self.home),
            "YARD_STORES": ",".join(f"{name}={path}" for name, path in self.stores.items()),
            "YARD_HOST": self.host,
            "YARD_PORT": str(self.port),
            "YARD_NATS_PORT": str(self.nats_port),
            "YARD_NATS_HOST": self.nats_host,
            "YARD_JOINED": "yes" if self.joined else None,
            "YARD_NODE": self.node,
            "YARD_ALLOWED_HOSTS": ",".join(self.allowed_hosts),
            "YARD_LOG_LEVEL": self.log_level,
            "YARD_NATS_URL": self.nats_url,
            "YARD_LLAMA_SERVER": str(self.llama_server) if self.llama_server else None,
            "YARD_MEMORY_LIMITS": ",".join(f"{name}={size}" for name, size in self.memory_limits.items()),
            "YARD_SWAP_MAX_WAIT_S": f"{self.swap_max_wait_s:g}",
            "YARD_SWAP_MIN_DWELL_S": f"{self.swap_min_dwell_s:g}",
            "YARD_HANG_S": f"{self.hang_s:g}",
            "YARD_DOWNLOADS_AT_ONCE": str(self.downloads_at_once),
            "YARD_DOWNLOAD_SEGMENTS": str(self.download_segments),
            "YARD_DOWNLOAD_LIMIT": str(self.download_limit_bytes_s) if self.download_limit_bytes_s else None,
            "YARD_FETCH": "yes" if self.fetch else "no",
            "YARD_DISK_MARGIN": str(self.disk_margin_bytes),
            "YARD_VLLM": str(self.vllm) if self.vllm else None,
            "YARD_RPC_SERVER": str(self.rpc_server) if self.rpc_server else None,
            "YARD_RPC_HOST": self.rpc_host,
            "YARD_PEER_HOST": self.peer_host,
            "YARD_PEER_PORT": str(self.peer_port),
            "YARD_TIME_ZONE": self.time_zone,
            "YARD_CURRENCY": self.currency,
            "YARD_USAGE_KEEP_DAYS": f"{self.usage_keep_days:g}",
            "YARD_USAGE_KEEP_MIB": f"{self.usage_keep_mib:g}",
            "YARD_TRENDS_KEEP_DAYS": f"{self.trends_keep_days:g}",
            "YARD_SIMULATED_DEVICES": str(self.simulated_devices) if self.simulated_devices else None,
        }
        return {name: value for name, value in values.items() if value}


_UNITS_LEFT_OUT = {
    "YARD_DOWNLOAD_LIMIT_BYTES_S": "YARD_DOWNLOAD_LIMIT",
    "YARD_DISK_MARGIN_BYTES": "YARD_DISK_MARGIN",
}
"""Where a setting is written with its own unit."""
_FIELDS = [f"YARD_{field.upper()}" for field in Settings.__struct_fields__]
KNOWN = frozenset(_UNITS_LEFT_OUT.get(name, name) for name in _FIELDS)
"""The names of all settings."""


def unknown(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Variables that look like settings and are none: most likely misspelt."""
    return sorted(name for name in environ if name.startswith("YARD_") and name not in KNOWN)


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; SettingsError with one sentence for the first wrong one."""
    given = {name: value.strip() for name, value in environ.items() if name in KNOWN and value.strip()}
    return Settings(
        home=_home(given.get("YARD_HOME")),
        stores=_stores(given.get("YARD_STORES", "")),
        host=given.get("YARD_HOST", "127.0.0.1"),
        port=_port(given, "YARD_PORT", 8080),
        nats_url=_nats_url(given.get("YARD_NATS_URL")),
        nats_port=_port(given, "YARD_NATS_PORT", 4222),
        nats_host=address(given.get("YARD_NATS_HOST", "127.0.0.1"), "YARD_NATS_HOST"),
        joined=_is_yes(given, "YARD_JOINED", "no"),
        llama_server=_executable(given, "YARD_LLAMA_SERVER"),
        vllm=_executable(given, "YARD_VLLM"),
        rpc_server=_executable(given, "YARD_RPC_SERVER"),
        rpc_host=_address(given, "YARD_RPC_HOST"),
        peer_host=_address(given, "YARD_PEER_HOST") if "YARD_PEER_HOST" in given else None,
        peer_port=_port(given, "YARD_PEER_PORT", 0),
        node=_node(given.get("YARD_NODE")),
        allowed_hosts=tuple(filter(None, map(str.strip, given.get("YARD_ALLOWED_HOSTS", "").split(",")))),
        memory_limits=_memory_limits(given.get("YARD_MEMORY_LIMITS", "")),
        swap_max_wait_s=_seconds(given, "YARD_SWAP_MAX_WAIT_S", 20.0),
        swap_min_dwell_s=_seconds(given, "YARD_SWAP_MIN_DWELL_S", 5.0),
        hang_s=_seconds(given, "YARD_HANG_S", 60.0),
        downloads_at_once=_count(given, "YARD_DOWNLOADS_AT_ONCE", 2),
        download_segments=_count(given, "YARD_DOWNLOAD_SEGMENTS", 4),
        download_limit_bytes_s=_size(given, "YARD_DOWNLOAD_LIMIT", "") or None,
        fetch=_is_yes(given, "YARD_FETCH", "yes"),
        disk_margin_bytes=_size(given, "YARD_DISK_MARGIN", "512MiB"),
        time_zone=_time_zone(given.get("YARD_TIME_ZONE", "UTC")),
        currency=_currency(given.get("YARD_CURRENCY", "EUR")),
        usage_keep_days=_number(given, "YARD_USAGE_KEEP_DAYS", 400.0, "days"),
        usage_keep_mib=_number(given, "YARD_USAGE_KEEP_MIB", 4096.0, "MiB"),
        trends_keep_days=_number(given, "YARD_TRENDS_KEEP_DAYS", 3650.0, "days"),
        simulated_devices=_simulated_devices(given.get("YARD_SIMULATED_DEVICES")),
        log_level=_log_level(given.get("YARD_LOG_LEVEL", "info")),
    )


def _home(value: str | None) -> Path:
    path = Path(value).expanduser() if value else _own_home()
    if path.exists() and not path.is_dir():
        raise SettingsError(f"YARD_HOME={path} is a file; it must be a folder.")
    return path.absolute()


def _own_home() -> Path:
    # The processes of a yard are told their home, and a megabyte comes with this.
    import platformdirs

    return platformdirs.user_data_path("modelyard")


def _stores(value: str) -> dict[str, Path]:
    stores: dict[str, Path] = {}
    for part in filter(None, map(str.strip, value.split(","))):
        match = re.fullmatch(r"([A-Za-z0-9_-]{1,64})=(.+)", part)
        path = Path(match[2].strip()).expanduser() if match else Path()
        if match is None or not path.is_absolute():
            raise SettingsError(f"YARD_STORES={value}: {part!r} does not look like name=/folder.")
        if path.exists() and not path.is_dir():
            raise SettingsError(f"YARD_STORES={value}: {path} is no folder.")
        if match[1] in stores:
            raise SettingsError(f"YARD_STORES={value}: two stores have the name {match[1]}.")
        stores[match[1]] = path
    _check_apart(stores, value)
    return stores


def _check_apart(stores: Mapping[str, Path], value: str) -> None:
    real = {name: path.resolve() for name, path in stores.items()}
    for name, path in real.items():
        within = next((one for one in real if one != name and path.is_relative_to(real[one])), None)
        if within is not None:
            raise SettingsError(f"YARD_STORES={value}: {name} lies in {within}; stores must lie apart.")


def _port(given: Mapping[str, str], name: str, default: int) -> int:
    value = given.get(name, str(default))
    if not value.isdecimal() or int(value) > 65535:
        raise SettingsError(f"{name}={value} is not a port; give a number from 0 to 65535.")
    return int(value)


_MOST = 64
_UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def _memory_limits(value: str) -> dict[str, int]:
    limits = {}
    for part in filter(None, map(str.strip, value.split(","))):
        match = re.fullmatch(r"([A-Za-z0-9_-]+)=(\d+)\s*([KMGT]iB)?", part)
        if match is None:
            raise SettingsError(f"YARD_MEMORY_LIMITS has {part!r}; each part looks like cpu=8GiB.")
        limits[match[1]] = int(match[2]) * _UNITS[match[3] or ""]
    return limits


def _size(given: Mapping[str, str], name: str, default: str) -> int:
    value = given.get(name, default) or "0"
    match = re.fullmatch(r"(\d+)\s*([KMGT]iB)?", value)
    if match is None:
        raise SettingsError(f"{name}={value} is not a number of bytes; it looks like 20MiB.")
    return int(match[1]) * _UNITS[match[2] or ""]


def _count(given: Mapping[str, str], name: str, default: int) -> int:
    value = given.get(name, str(default))
    if not value.isdecimal() or not 1 <= int(value) <= _MOST:
        raise SettingsError(f"{name}={value} is not a number from 1 to {_MOST}.")
    return int(value)


def _seconds(given: Mapping[str, str], name: str, default: float) -> float:
    return _number(given, name, default, "seconds")


def _number(given: Mapping[str, str], name: str, default: float, unit: str) -> float:
    value = given.get(name, str(default))
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise SettingsError(f"{name}={value} is not a number of {unit}, 0 or more.")
    return number


def _time_zone(value: str) -> str:
    if value == "UTC":
        return value
    # Most processes only pass it on, and a megabyte comes with it.
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(value).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SettingsError(
            f"YARD_TIME_ZONE={value} is not a time zone; it looks like Europe/Berlin."
        ) from None


def _currency(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z]{1,8}|[^\w\s,;\"']", value):
        raise SettingsError(f"YARD_CURRENCY={value} is not a currency; it looks like EUR.")
    return value


def address(value: str, name: str) -> str:
    """An address of this machine, for a listener; SettingsError that names the setting if it is none."""
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise SettingsError(
            f"{name}={value} is not an address; give an IP address of this machine, or 0.0.0.0 for all."
        ) from None


def _is_yes(given: Mapping[str, str], name: str, default: str) -> bool:
    value = given.get(name, default)
    if value not in ("yes", "no"):
        raise SettingsError(f"{name}={value} is not yes or no.")
    return value == "yes"


def _nats_url(value: str | None) -> str | None:
    if value and not re.match(r"(nats|tls|ws|wss)://[^/\s]+", value):
        raise SettingsError(f"YARD_NATS_URL={value} is not a broker's URL; it looks like nats://host:4222.")
    return value


def _executable(given: Mapping[str, str], name: str) -> Path | None:
    if (value := given.get(name)) is None:
        return None
    path = Path(value).expanduser().absolute()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise SettingsError(f"{name}={value} is not a program that can be run.")
    return path


def _simulated_devices(value: str | None) -> Path | None:
    if value is None:
        return None
    path = Path(value).expanduser().absolute()
    if path.suffix.lower() not in (".yaml", ".yml", ".toml", ".json"):
        raise SettingsError(f"YARD_SIMULATED_DEVICES={value} must end in .yaml, .toml or .json.")
    return path


def _address(given: Mapping[str, str], name: str) -> str:
    """One address of this machine: not all of them, and no name that others may resolve differently."""
    value = given.get(name, "127.0.0.1")
    try:
        if not ipaddress.ip_address(value).is_unspecified:
            return value
    except ValueError:
        pass
    raise SettingsError(f"{name}={value} is not an address of this machine; it looks like 192.168.1.20.")


def _node(value: str | None) -> str:
    if value is None:
        return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "local"
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value):
        raise SettingsError(f"YARD_NODE={value} is not a node name; use letters, digits, '_' and '-'.")
    return value


def _log_level(value: str) -> str:
    if value.lower() not in ("debug", "info", "warning", "error"):
        raise SettingsError(f"YARD_LOG_LEVEL={value} is not debug, info, warning or error.")
    return value.lower()
