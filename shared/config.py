"""The only reader of the environment and of settings files.

Order of precedence: command line, environment, settings files, defaults. A value that cannot be used stops
the process with a `ConfigError` that names it.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import orjson

from shared.doubled_names import doubled_names
from shared.errors import ConfigError
from shared.hosts import is_loopback_address, parse_host_pattern, parse_origin_pattern
from shared.keys import DEFAULT_DEPLOYMENT, word

KEYS_FILE = "keys.json"  # in the state folder
SETTINGS_FILES = (
    "models.json",
    "model_aliases.json",
    "claude_routing.json",
    "inference_settings.json",
    "gguf_config.json",
    "remotes.json",
    "cache_settings.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set from outside. Durations in seconds unless the name says ms."""

    host: str = "127.0.0.1"
    port: int = 8080
    door_listen: str = ""  # address of the door; "" for all
    door_port: int = 8082
    https_listen: str = ""  # address of the same gateway over HTTPS, on a Mac that is shared; "": as `host`
    https_port: int = 8443
    name: str = ""  # of this Mac's host in the fleet; "": its host name
    deployment: str = DEFAULT_DEPLOYMENT  # begins every name in Redis: fleets that share a server need two
    state_dir: Path = Path("~/.mlx-gateway")
    config_dir: Path | None = None
    redis_url: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    host_key: str = field(default="", repr=False)  # of a host that joined: generation, its key, anyone's; no secret
    api_key: str = field(default="", repr=False)
    allowed_hosts: tuple[str, ...] = ()  # besides loopback ones, where no key is set
    allowed_origins: tuple[str, ...] = ()  # of pages, besides loopback ones
    log_level: str = "info"
    log_format: str = "text"
    log_file: Path | None = None  # instead of stderr
    debug: int = 0  # 1: mode and URLs; 2: requests and answers in shape; 3: everything that was said
    trace_bytes: int = 32 * 1024 * 1024
    trace_days: float = 7.0
    default_model: str = ""

    max_body_bytes: int = 32 * 1024 * 1024
    max_queue: int = 64
    max_counts: int = 256
    interactive_deadline_s: float = 600.0
    batch_deadline_s: float = 1800.0
    keepalive_s: float = 5.0
    noop_s: float = 110.0
    stream_grace_s: float = 3.0

    capacity: int = 16
    max_context_tokens: int = 0
    execution_ttl_s: float = 6.0
    stall_s: float = 60.0
    drain_s: float = 7.0
    decode_stall_target_ms: float = 200.0
    prefill_step_tokens: int = 2048

    cache_block_tokens: int = 256
    cache_max_slots: int = 4
    cache_min_reuse_tokens: int = 512
    cache_max_tokens: int = 65536
    cache_bytes: int = 0
    cache_bits: int = 0  # a number of what is kept and not in use; 0: as it was computed
    cache_listen: str = ""  # host:port at which other hosts read what is kept on disk here; empty: by the door
    cache_address: str = ""  # how they reach it; empty: where it listens, or by the way to Redis
    ssd_cache_bytes: int = 0  # 0: by the disk's free space; negative: none
    memory_bytes: int = 0  # that all workers of a host may use together; 0: by the machine's memory

    @property
    def is_member(self) -> bool:
        """Whether this host joined a fleet, and has no secret but its own key."""
        return bool(self.host_key)

    @property
    def https_host(self) -> str:
        return self.https_listen or self.host


# Field -> environment variable. Everything else is MLX_GATEWAY_<FIELD>.
_NAMES = {
    "redis_url": "REDIS_URL",
    "cache_block_tokens": "MLX_CACHE_BLOCK_SIZE",
    "cache_max_slots": "MLX_CACHE_MAX_SLOTS",
    "cache_min_reuse_tokens": "MLX_CACHE_MIN_REUSE",
    "cache_max_tokens": "MLX_CACHE_MAX_TOKENS",
}

_POSITIVE = (
    "capacity",
    "max_queue",
    "max_counts",
    "max_body_bytes",
    "prefill_step_tokens",
    "cache_block_tokens",
    "interactive_deadline_s",
    "batch_deadline_s",
    "keepalive_s",
    "noop_s",
    "execution_ttl_s",
    "stall_s",
    "decode_stall_target_ms",
)
_NOT_NEGATIVE = (
    "cache_max_slots",
    "cache_min_reuse_tokens",
    "cache_max_tokens",
    "cache_bytes",
    "memory_bytes",
    "max_context_tokens",
    "stream_grace_s",
    "drain_s",
    "trace_bytes",
    "trace_days",
)


_LEAST_SECRET_BYTES = 32
SERVICE_SOCKET = "NOTIFY_SOCKET"
SOURCES = "MLX_GATEWAY_SETTING_SOURCES"  # no setting: told to children


def environment_name(field_name: str) -> str:
    return _NAMES.get(field_name, f"MLX_GATEWAY_{field_name.upper()}")


def load_settings(overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment, with `overrides` (the command line's, None meaning not given) on top."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for each in fields(Settings):
        raw = environ.get(environment_name(each.name))
        if raw is not None and raw != "":
            values[each.name] = _convert(environment_name(each.name), raw, each.default)
    values.update({k: v for k, v in (overrides or {}).items() if v is not None})
    settings = Settings(**values)
    settings = replace(settings, state_dir=Path(settings.state_dir).expanduser().absolute())
    settings = replace(settings, config_dir=_absolute(settings.config_dir), log_file=_absolute(settings.log_file))
    return _validated(settings)


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else Path(path).expanduser().absolute()


def _convert(name: str, raw: str, default: Any) -> Any:
    try:
        if isinstance(default, int):
            return int(raw)
        if isinstance(default, float):
            return float(raw)
        if isinstance(default, tuple):
            return tuple(part.strip() for part in raw.split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"{name}={raw!r}: expected a number") from None
    return Path(raw) if isinstance(default, Path) or name.endswith(("_DIR", "_FILE")) else raw


def _validated(settings: Settings) -> Settings:
    _check_words(settings)
    _check_numbers(settings)
    _check_access(settings)
    return replace(
        settings,
        allowed_hosts=_patterns("allowed_hosts", settings.allowed_hosts, parse_host_pattern, "a host's name, no port"),
        allowed_origins=_patterns(
            "allowed_origins",
            settings.allowed_origins,
            parse_origin_pattern,
            "scheme://host, and :port where it has one",
        ),
    )


def _check_words(settings: Settings) -> None:
    if settings.deployment != word(settings.deployment):
        raise ConfigError(f"deployment {settings.deployment!r}: expected letters, digits, - and _")
    if settings.log_level.lower() not in ("debug", "info", "warning", "error"):
        raise ConfigError(f"log level {settings.log_level!r}: expected debug, info, warning or error")
    if settings.log_format not in ("text", "json"):
        raise ConfigError(f"log format {settings.log_format!r}: expected text or json")


def _check_numbers(settings: Settings) -> None:
    for name in ("port", "door_port", "https_port"):
        if not 0 <= getattr(settings, name) <= 65535:
            raise ConfigError(f"{name.replace('_', ' ')} {getattr(settings, name)} is not between 0 and 65535")
    for name in _POSITIVE:
        if not 0 < getattr(settings, name) < math.inf:
            raise ConfigError(f"{environment_name(name)} must be positive")
    if settings.debug not in range(4):
        raise ConfigError(f"{environment_name('debug')} must be 0, 1, 2 or 3")
    if settings.cache_bits not in (0, 8):
        raise ConfigError(f"{environment_name('cache_bits')} must be 0 or 8")
    for name in _NOT_NEGATIVE:
        if not 0 <= getattr(settings, name) < math.inf:
            raise ConfigError(f"{environment_name(name)} must not be negative")


def _check_access(settings: Settings) -> None:
    if settings.secret and not settings.secret.strip():
        raise ConfigError(f"{environment_name('secret')} is blank")
    if settings.api_key and not _can_be_sent(settings.api_key):
        raise ConfigError(f"{environment_name('api_key')} has blanks around it or holds what no header can")
    is_open = not settings.api_key and not (settings.state_dir / KEYS_FILE).exists()
    given = {f"--listen {settings.host}": settings.host}
    given[f"{environment_name('https_listen')}={settings.https_listen}"] = settings.https_host
    for what, host in given.items():
        if is_open and host != "localhost" and not is_loopback_address(host):
            raise ConfigError(
                f"{what} would open the gateway to the network without a key: "
                "set MLX_GATEWAY_API_KEY, make one with `mlx-gateway key create NAME`, or listen on 127.0.0.1"
            )


def _can_be_sent(key: str) -> bool:
    return key == key.strip() and not any(ord(character) < 0x20 or ord(character) == 0x7F for character in key)


def _patterns(name: str, texts: tuple[str, ...], parse: Callable[[str], str | None], expected: str) -> tuple[str, ...]:
    found = []
    for text in texts:
        pattern = parse(text)
        if pattern is None:
            raise ConfigError(f"{environment_name(name)}: {text!r} is not {expected}")
        found.append(pattern)
    return tuple(found)


def own_environment(settings: Settings) -> dict[str, str]:
    """The environment that gives a process exactly these settings (secrets never go in argv)."""
    environment = {**os.environ}
    for each in fields(Settings):
        value = getattr(settings, each.name)
        if value is not None and value not in ("", ()):
            environment[environment_name(each.name)] = ",".join(value) if isinstance(value, tuple) else str(value)
    environment[SOURCES] = ",".join(f"{name}={source}" for name, source in setting_sources(settings).items())
    return environment


def child_environment(settings: Settings) -> dict[str, str]:
    """The same for a child: the file of the log is ours, and so is what we tell whoever keeps us as a service."""
    ours = (environment_name("log_file"), SERVICE_SOCKET)
    return {name: value for name, value in own_environment(settings).items() if name not in ours}


def setting_sources(settings: Settings, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """By variable, who has set it: `environment`, or `command line`, as which counts what a parent process has chosen.
    Those that are as usual are not there. A child is told what its parent knew, for it is given every setting."""
    environ = os.environ if environ is None else environ
    if SOURCES in environ:
        return dict(pair.split("=", 1) for pair in environ[SOURCES].split(",") if "=" in pair)
    found = {}
    for each in fields(Settings):
        name, value = environment_name(each.name), getattr(settings, each.name)
        raw = environ.get(name, "")
        if raw and (isinstance(value, tuple) or _plain(_convert(name, raw, each.default)) == value):
            found[name] = "environment"
        elif value != _plain(each.default):
            found[name] = "command line"
    return found


def _plain(value: Any) -> Any:
    """A value as settings hold it once they are loaded."""
    return _absolute(value) if isinstance(value, Path) else value


def set_variables(settings: Settings, *, only_given: bool = False, secrets: bool = False) -> dict[str, str]:
    """By variable, what these settings are; `only_given`: what the environment says of them. Secrets are shown as such
    unless they are asked for."""
    found = {}
    for each in fields(Settings):
        name, value = environment_name(each.name), getattr(settings, each.name)
        if only_given and not os.environ.get(name):
            continue
        text = ",".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
        found[name] = text if each.repr or secrets or not text else "(set)"
    return found


def service_socket() -> str:
    """Where whoever keeps this process as a service wants to hear of it; empty for nowhere."""
    return os.environ.get(SERVICE_SOCKET, "")


def service_folder() -> str:
    """What systemd made for this service's sockets; empty for nothing that can be used. Its /tmp may be one that nobody
    else sees.

    Source: https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html#RuntimeDirectory=.
    """
    folder = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return folder if os.access(folder, os.W_OK | os.X_OK) else ""


def wants_spans(environ: Mapping[str, str] | None = None) -> bool:
    """Whether somebody collects OpenTelemetry's spans, by its own variables.

    Source: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.
    """
    environ = os.environ if environ is None else environ
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return not is_off and any(environ.get(name) for name in endpoints)


def plain_environment() -> dict[str, str]:
    """A copy of the environment as it is, for programs that are not ours."""
    return dict(os.environ)


def variable(name: str) -> str:
    """A variable that a person has named in a settings file, for a key; empty where it is not set."""
    return os.environ.get(name, "")


def load_secret(settings: Settings) -> bytes:
    """The key that signs jobs: given, else kept in `<state>/secret`, made on first use, readable by its owner. Raises
    `ConfigError` when the folder cannot be used, or when the file holds too little to be a secret."""
    if settings.secret:
        return settings.secret.encode()
    path = settings.state_dir / "secret"
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            _make_secret(path)
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"the state folder {settings.state_dir} cannot be used: {error}") from error
    if len(secret) < _LEAST_SECRET_BYTES:
        raise ConfigError(
            f"{path} holds {len(secret)} bytes, where a secret has {_LEAST_SECRET_BYTES} at least: delete it, "
            "and a new one is made; all gateways and hosts on one Redis need the same"
        )
    return secret


def _make_secret(path: Path) -> None:
    """There at once and whole, or not at all: whoever else makes one at this moment uses the same."""
    written = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        try:
            file.write(secrets.token_hex(32).encode())
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(written, path)
        finally:
            written.unlink()


_GONE = ()  # in place of a file's stamp


class SettingsFile:
    """One JSON file of the config folder, read again when it changes. Missing means empty. `fault` says why it cannot
    be read as it is now; empty when it can. Of what can be read, `tell` is given a line for each name that stands twice
    in one object, whenever the file was read."""

    def __init__(self, settings: Settings, name: str, tell: Callable[[str], None] = lambda _: None) -> None:
        if name not in SETTINGS_FILES:
            raise ConfigError(f"unknown settings file {name!r}")
        folder = settings.config_dir
        self.path = None if folder is None else folder / name
        self._tell = tell
        self._stamp: tuple[int, ...] | None = None
        self._data: Any = {}
        self.fault = ""

    def load(self) -> Any:
        """The parsed content. Raises `ConfigError` when the file cannot be read or does not parse (the last good one
        is kept for the next call once the caller has reported it)."""
        if self.path is None:
            return self._data
        try:
            self._read(self.path)
        except ConfigError as error:
            self.fault = str(error)
            raise
        return self._data

    def _read(self, path: Path) -> None:
        try:
            stamp = _stamp(path)
            if stamp != self._stamp:
                self._stamp = stamp
                text = path.read_bytes()
                self._data, self.fault = orjson.loads(text), ""
                for line in doubled_names(text.decode()):
                    self._tell(f"{path}: {line}")
        except FileNotFoundError:
            if self._data and not path.parent.is_dir():  # nobody takes settings back by taking the folder away
                self._note_lost_folder(path.parent)
            elif self._stamp is not None:  # else it was missing before, and its content is the same
                self._stamp, self._data, self.fault = None, {}, ""
        except (OSError, orjson.JSONDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error

    def _note_lost_folder(self, folder: Path) -> None:
        """Raises `ConfigError`, once."""
        if self._stamp != _GONE:
            self._stamp = _GONE
            raise ConfigError(f"{folder}: the folder is gone")


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes with a file's content, with the file behind the name, and with who may read it. Raises
    `FileNotFoundError`."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        return (error.errno or -1,)
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


def resolve_source(source: str) -> str:
    """What a person named as a model: a folder that exists as an absolute path, anything else (a Hugging Face id)
    as it is."""
    folder = Path(source).expanduser()
    return str(folder.resolve()) if folder.exists() else source


def model_folders(environ: Mapping[str, str] | None = None) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Where models may already lie on this machine: (Hugging Face hub caches, LM Studio model folders)."""
    environ = os.environ if environ is None else environ
    home = Path(environ.get("HOME") or "~").expanduser()
    hub = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    if not hub:
        hub = str(Path(environ.get("HF_HOME") or home / ".cache" / "huggingface") / "hub")
    studio = environ.get("LMSTUDIO_MODELS_DIR")
    folders = [Path(studio)] if studio else []
    folders += [home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models"]
    return (Path(hub).expanduser(),), tuple(folders)
