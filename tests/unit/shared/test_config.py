"""Settings: where they come from, which win, and what is refused."""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import pytest

from shared.config import (
    SOURCES,
    Settings,
    SettingsFile,
    child_environment,
    environment_name,
    load_secret,
    load_settings,
    model_folders,
    setting_sources,
)
from shared.connections import build_async_redis, build_redis
from shared.errors import ConfigError


def test_the_command_line_wins_over_the_environment_and_that_over_the_default() -> None:
    assert load_settings(environ={}).port == 8080
    assert load_settings(environ={"MLX_GATEWAY_PORT": "9000"}).port == 9000
    assert load_settings({"port": 9001}, environ={"MLX_GATEWAY_PORT": "9000"}).port == 9001


def test_an_option_that_was_not_given_and_an_empty_variable_count_as_nothing() -> None:
    assert load_settings({"port": None}, environ={"MLX_GATEWAY_PORT": ""}).port == 8080


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("REDIS_URL", "redis://r:1/0", "redis_url", "redis://r:1/0"),
        ("MLX_CACHE_BLOCK_SIZE", "128", "cache_block_tokens", 128),
        ("MLX_CACHE_MAX_SLOTS", "9", "cache_max_slots", 9),
        ("MLX_CACHE_MIN_REUSE", "1", "cache_min_reuse_tokens", 1),
        ("MLX_CACHE_MAX_TOKENS", "70000", "cache_max_tokens", 70000),
        ("MLX_GATEWAY_KEEPALIVE_S", "2.5", "keepalive_s", 2.5),
        ("MLX_GATEWAY_CONFIG_DIR", "/etc/gw", "config_dir", Path("/etc/gw")),
        (
            "MLX_GATEWAY_ALLOWED_HOSTS",
            " Mac.LAN. , *.docker.internal,",
            "allowed_hosts",
            ("mac.lan", "*.docker.internal"),
        ),
        ("MLX_GATEWAY_ALLOWED_ORIGINS", "https://a.example/,null", "allowed_origins", ("https://a.example", "null")),
    ],
)
def test_a_variable_sets_its_field(variable: str, value: str, field: str, expected: object) -> None:
    assert getattr(load_settings(environ={variable: value}), field) == expected


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"MLX_GATEWAY_PORT": "eighty"}, "MLX_GATEWAY_PORT"),
        ({"MLX_GATEWAY_PORT": "70000"}, "port 70000"),
        ({"MLX_GATEWAY_LOG_LEVEL": "loud"}, "loud"),
        ({"MLX_CACHE_BLOCK_SIZE": "0"}, "MLX_CACHE_BLOCK_SIZE"),
        ({"MLX_CACHE_MAX_SLOTS": "-1"}, "MLX_CACHE_MAX_SLOTS"),
        ({"MLX_CACHE_MIN_REUSE": "-1"}, "MLX_CACHE_MIN_REUSE"),
        ({"MLX_CACHE_MAX_TOKENS": "-1"}, "MLX_CACHE_MAX_TOKENS"),
        ({"MLX_GATEWAY_MEMORY_BYTES": "-1"}, "MLX_GATEWAY_MEMORY_BYTES"),
        ({"MLX_GATEWAY_HOST": "0.0.0.0"}, "MLX_GATEWAY_API_KEY"),
        ({"MLX_GATEWAY_SECRET": "  "}, "MLX_GATEWAY_SECRET"),
        ({"MLX_GATEWAY_HOST": "app.localhost"}, "MLX_GATEWAY_API_KEY"),  # a resolver may say otherwise
        *(({"MLX_GATEWAY_API_KEY": key}, "MLX_GATEWAY_API_KEY") for key in (" k", "k\n", "a\tb", "\x7f")),
        *(({"MLX_GATEWAY_ALLOWED_HOSTS": f"a,{host}"}, "MLX_GATEWAY_ALLOWED_HOSTS") for host in ("a:80", "http://a")),
        *(({"MLX_GATEWAY_ALLOWED_ORIGINS": page}, "MLX_GATEWAY_ALLOWED_ORIGINS") for page in ("a", "https://a/b")),
        ({"MLX_GATEWAY_KEEPALIVE_S": "0"}, "MLX_GATEWAY_KEEPALIVE_S"),
        *(({f"MLX_GATEWAY_{name}": value}, name) for name in ("STALL_S", "DRAIN_S") for value in ("-1", "nan", "inf")),
        ({"MLX_GATEWAY_DECODE_STALL_TARGET_MS": "0"}, "MLX_GATEWAY_DECODE_STALL_TARGET_MS"),
        ({"MLX_GATEWAY_INTERACTIVE_DEADLINE_S": "0"}, "MLX_GATEWAY_INTERACTIVE_DEADLINE_S"),
        ({"MLX_GATEWAY_MAX_CONTEXT_TOKENS": "-1"}, "MLX_GATEWAY_MAX_CONTEXT_TOKENS"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(environ: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_settings(environ=environ)


def test_with_a_key_the_gateway_may_listen_to_the_network() -> None:
    settings = load_settings(environ={"MLX_GATEWAY_HOST": "0.0.0.0", "MLX_GATEWAY_API_KEY": "k"})
    assert settings.host == "0.0.0.0"


def test_a_child_reads_exactly_the_parents_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for field in fields(Settings):
        monkeypatch.delenv(environment_name(field.name), raising=False)
    lists = {"MLX_GATEWAY_ALLOWED_HOSTS": "a.lan,*", "MLX_GATEWAY_ALLOWED_ORIGINS": "null,https://a.example"}
    given = {"port": 0, "state_dir": tmp_path, "api_key": "secret key", "stall_s": 1.5}
    parent = load_settings(given, environ=lists)
    assert load_settings(environ=child_environment(parent)) == parent


def test_who_has_set_what_is_known_to_children_and_theirs_though_they_are_given_everything(tmp_path: Path) -> None:
    environ = {
        "MLX_GATEWAY_CACHE_BYTES": "1_000",
        "MLX_CACHE_MAX_SLOTS": "4",
        "MLX_GATEWAY_PORT": "9000",
        "MLX_GATEWAY_CONFIG_DIR": "config",
        "MLX_GATEWAY_ALLOWED_HOSTS": "a.lan, b.lan",
    }
    parent = load_settings({"port": 9001, "state_dir": tmp_path, "host": None}, environ=environ)
    told = {
        **dict.fromkeys(environ, "environment"),
        "MLX_GATEWAY_PORT": "command line",
        "MLX_GATEWAY_STATE_DIR": "command line",
    }
    assert setting_sources(parent, environ) == told
    assert setting_sources(load_settings(environ={}), {}) == {}
    child = {**environ, SOURCES: ",".join(f"{name}={source}" for name, source in told.items())}
    assert setting_sources(load_settings(environ=child), child) == told
    assert setting_sources(parent, {SOURCES: ""}) == {}


def test_a_child_is_told_who_has_set_what(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in fields(Settings):
        monkeypatch.delenv(environment_name(field.name), raising=False)
    monkeypatch.delenv(SOURCES, raising=False)
    monkeypatch.setenv("MLX_GATEWAY_CACHE_BYTES", "5")
    child = child_environment(load_settings({"port": 7}))
    assert child[SOURCES] == "MLX_GATEWAY_PORT=command line,MLX_GATEWAY_CACHE_BYTES=environment"
    for name, value in child.items():
        monkeypatch.setenv(name, value)
    assert child_environment(load_settings())[SOURCES] == child[SOURCES], "and so are theirs"


@pytest.mark.parametrize("host", ["127.0.0.2", "::1", "localhost"])
def test_without_a_key_it_may_listen_to_this_machine(host: str) -> None:
    assert load_settings(environ={"MLX_GATEWAY_HOST": host}).host == host


def test_no_secret_is_shown_with_the_settings() -> None:
    settings = Settings(redis_url="redis://u:p4ss@r", secret="h1dden", api_key="k3y")
    assert not re.search("p4ss|h1dden|k3y", f"{settings!r} {settings}")


def test_the_secret_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    settings = replace(load_settings(environ={}), state_dir=tmp_path / "state")
    first = load_secret(settings)
    assert len(first) == 64
    assert load_secret(settings) == first
    assert stat.S_IMODE((tmp_path / "state" / "secret").stat().st_mode) == 0o600
    assert load_secret(replace(settings, secret="given")) == b"given"


@pytest.mark.parametrize("content", [b"", b"\n", b" " * 100, b"x" * 31])
def test_a_secret_that_is_none_is_refused_with_its_place(tmp_path: Path, content: bytes) -> None:
    settings = replace(load_settings(environ={}), state_dir=tmp_path)
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigError, match=f"{tmp_path}/secret holds .* bytes"):
        load_secret(settings)
    (tmp_path / "secret").write_bytes(b"x" * 32 + b"\n")
    assert load_secret(settings) == b"x" * 32


def test_all_who_make_the_secret_at_once_get_the_same_and_leave_nothing_else(tmp_path: Path) -> None:
    settings = replace(load_settings(environ={}), state_dir=tmp_path / "state")
    start = threading.Barrier(16)

    def make(_: int) -> bytes:
        start.wait()
        return load_secret(settings)

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(make, range(16)))) == 1
    assert [path.name for path in settings.state_dir.iterdir()] == ["secret"]


def _file(folder: Path | None) -> SettingsFile:
    return SettingsFile(replace(load_settings(environ={}), config_dir=folder), "models.json")


def test_a_settings_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = _file(tmp_path)
    assert file.load() == {}
    path = tmp_path / "models.json"
    path.write_text(json.dumps({"models": ["a"]}))
    assert file.load() == {"models": ["a"]}
    path.write_text(json.dumps({"models": ["bb"]}))
    assert file.load() == {"models": ["bb"]}
    path.unlink()
    assert file.load() == {}


def test_a_settings_file_that_stays_as_it_is_has_the_same_content_and_so_has_a_missing_one(tmp_path: Path) -> None:
    """Who asks again compares the objects, to know whether anything is to be parsed."""
    file = _file(tmp_path)
    assert file.load() is file.load()
    path = tmp_path / "models.json"
    path.write_text("{}")
    assert file.load() is file.load()
    path.unlink()
    assert file.load() is file.load()


def test_a_broken_settings_file_is_reported_once_and_the_last_good_one_kept(tmp_path: Path) -> None:
    file = _file(tmp_path)
    path = tmp_path / "models.json"
    path.write_text('{"models": []}')
    assert file.load() == {"models": []}
    path.write_text('{"models": [')
    with pytest.raises(ConfigError, match=r"models\.json"):
        file.load()
    assert file.load() == {"models": []}
    assert "models.json" in file.fault, "as long as it is so"
    path.write_text('{"models": []}')
    assert (file.load(), file.fault) == ({"models": []}, "")
    path.write_text("{")
    with pytest.raises(ConfigError):
        file.load()
    path.unlink()
    assert (file.load(), file.fault) == ({}, "")


def test_a_settings_file_that_cannot_be_read_is_reported_once_and_the_last_good_one_kept(tmp_path: Path) -> None:
    file = _file(tmp_path)
    path = tmp_path / "models.json"
    path.write_text('{"models": []}')
    assert file.load() == {"models": []}
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match=r"models\.json"):
        file.load()
    assert file.load() == {"models": []}
    path.rmdir()
    path.write_text('{"models": ["a"]}')
    assert file.load() == {"models": ["a"]}


def test_a_config_folder_that_is_none_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    file = _file(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"models\.json"):
        file.load()
    assert file.load() == {}


def test_a_file_with_the_same_size_and_date_in_its_place_is_read(tmp_path: Path) -> None:
    file = _file(tmp_path)
    path, other = tmp_path / "models.json", tmp_path / "other"
    path.write_text('{"models": ["a"]}')
    assert file.load() == {"models": ["a"]}
    other.write_text('{"models": ["b"]}')
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    other.replace(path)
    assert file.load() == {"models": ["b"]}


def test_a_state_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=str(folder)):
            load_secret(replace(load_settings(environ={}), state_dir=folder))


@pytest.mark.parametrize("build", [build_redis, build_async_redis])
def test_a_redis_url_that_is_none_is_refused_by_name(build: Callable[[Settings], object]) -> None:
    for url in ("somewhere", "redis://host:port/0"):
        with pytest.raises(ConfigError, match="REDIS_URL"):
            build(replace(load_settings(environ={}), redis_url=url))


def test_every_number_is_checked_for_what_it_can_mean() -> None:
    numbers = {field.name for field in fields(Settings) if isinstance(field.default, int | float)}
    unchecked = {name for name in numbers if not _is_refused(name, "-1")}
    assert unchecked == {"ssd_cache_bytes"}  # negative: none


def _is_refused(name: str, value: str) -> bool:
    try:
        load_settings(environ={environment_name(name): value})
    except ConfigError:
        return True
    return False


def test_without_a_config_folder_every_settings_file_is_empty() -> None:
    assert _file(None).load() == {}


def test_models_are_looked_for_where_hugging_face_and_lm_studio_keep_them(tmp_path: Path) -> None:
    hubs, studios = model_folders({"HOME": str(tmp_path)})
    assert hubs == (tmp_path / ".cache/huggingface/hub",)
    assert studios == (tmp_path / ".lmstudio/models", tmp_path / ".cache/lm-studio/models")
    assert model_folders({"HOME": str(tmp_path), "HF_HOME": "/h"})[0] == (Path("/h/hub"),)
    assert model_folders({"HOME": str(tmp_path), "HF_HUB_CACHE": "/c"})[0] == (Path("/c"),)
    assert model_folders({"HOME": str(tmp_path), "LMSTUDIO_MODELS_DIR": "/l"})[1][0] == Path("/l")


def test_the_environment_of_the_process_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "MLX_GATEWAY_PORT", "8111")
    assert load_settings().port == 8111


def test_a_settings_folder_that_is_gone_is_reported_once_and_takes_nothing_away(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "models.json").write_text(json.dumps({"models": ["a"]}))
    file = _file(folder)
    assert file.load() == {"models": ["a"]}
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="the folder is gone"):
        file.load()
    assert file.load() == {"models": ["a"]}
    (tmp_path / "elsewhere").rename(folder)
    (folder / "models.json").write_text(json.dumps({"models": []}))
    assert file.load() == {"models": []}
    (folder / "models.json").unlink()
    assert file.load() == {}
    (folder / "models.json").write_text(json.dumps({"models": ["a"]}))
    assert file.load() == {"models": ["a"]}
