"""The gateway over HTTPS: the same application for curl, both vendors' SDKs and a browser's session."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import anthropic
import openai
import orjson
import pytest
from anthropic import DefaultHttpxClient

from gateway.door.authority import load_authority
from gateway.door.folder import DoorFolder
from gateway.door.web import AUTHORITY_FILE
from gateway.secured import HttpsListener
from shared.config import Settings
from shared.redis_server import RedisServer
from tests.support.processes import free_port, wait_until
from tests.support.served import Served, message, served

KEY = "sesame"
WORDS = "one two three"


@dataclass
class Secured:
    gateway: Served
    url: str
    authority: Path

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))

    def client(self) -> DefaultHttpxClient:
        return DefaultHttpxClient(verify=self.context(), base_url=self.url, trust_env=False)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("https")
    settings = Settings(state_dir=folder / "state")
    door = DoorFolder(settings)
    door.make()
    load_authority(door.path, "door")
    with (
        RedisServer() as server,
        served(server.url, folder, api_key=KEY, https_port=free_port()) as gateway,
    ):
        gateway.headers["x-api-key"] = KEY
        wait_until(door.https, "it listens")
        https = door.https()
        assert https is not None
        with gateway.worker():
            yield Secured(gateway, https.url, door.path / AUTHORITY_FILE)


def test_curl_streams_with_the_authoritys_file_and_refuses_without(secured: Secured) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    body = orjson.dumps(message(WORDS, stream=True)).decode()
    words = [curl, "-sSN", "--noproxy", "*", f"{secured.url}/v1/messages", "-H", f"x-api-key: {KEY}", "-d", body]
    trusting = subprocess.run([*words, "--cacert", str(secured.authority)], capture_output=True, text=True, check=True)
    assert trusting.stdout.startswith("event: message_start")
    assert trusting.stdout.rstrip().endswith('data: {"type":"message_stop"}')
    assert subprocess.run(words, capture_output=True, check=False).returncode == 60  # the peer cannot be verified


def test_the_anthropic_sdk_streams(secured: Secured) -> None:
    with anthropic.Anthropic(base_url=secured.url, api_key=KEY, http_client=secured.client()) as client:
        asked = {"model": "echo", "max_tokens": 50, "messages": [{"role": "user", "content": WORDS}]}
        with client.messages.stream(**asked) as stream:  # type: ignore[arg-type]
            assert "".join(stream.text_stream) == WORDS


def test_the_openai_sdk_streams(secured: Secured) -> None:
    with openai.OpenAI(base_url=f"{secured.url}/v1", api_key=KEY, http_client=secured.client()) as client:
        stream = client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": WORDS}], stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == WORDS


def test_both_listeners_are_one_application(secured: Secured) -> None:
    with secured.client() as client:
        before = client.get("/metrics", headers={"x-api-key": KEY}).text
        assert secured.gateway.post("/v1/messages", message(WORDS)).status == 200
        after = client.get("/metrics", headers={"x-api-key": KEY}).text
        assert client.get("/v1/models").status_code == 401
        assert _answered(after) == _answered(before) + 1
        assert client.get("/health").http_version == "HTTP/1.1"


def _answered(metrics: str) -> float:
    lines = [line for line in metrics.splitlines() if line.startswith("gw_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if "anthropic" in line or "messages" in line)


def test_a_session_is_secure_there_and_another_than_over_http(secured: Secured) -> None:
    page = {"origin": secured.url, "sec-fetch-site": "same-origin"}
    with secured.client() as client:
        signed_in = client.post("/api/session", json={"key": KEY}, headers=page)
        cookie = signed_in.headers["set-cookie"]
        assert cookie.startswith(f"__Host-mlx_gateway_{secured.gateway.port}=")
        assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= {each.strip() for each in cookie.split(";")}
        assert client.get("/api/overview", headers=page).status_code == 200
        client.cookies.clear()
        assert client.get("/api/overview", headers=page).status_code == 401
    plain = secured.gateway.post("/api/session", {"key": KEY}, {"origin": f"http://127.0.0.1:{secured.gateway.port}"})
    assert "Secure" not in plain.headers["set-cookie"]
    assert plain.headers["set-cookie"].startswith("mlx_gateway_")
    stolen = plain.headers["set-cookie"].partition(";")[0]
    with secured.client() as client:
        assert client.get("/api/overview", headers={**page, "cookie": stolen}).status_code == 401


def test_plain_http_to_it_is_closed_and_harms_nobody(secured: Secured) -> None:
    address = urlsplit(secured.url)
    plain = http.client.HTTPConnection("127.0.0.1", address.port, timeout=10)
    plain.request("GET", "/health")
    with pytest.raises((OSError, http.client.HTTPException)):
        plain.getresponse()
    plain.close()
    with secured.client() as client:
        assert client.get("/health").status_code == 200


def test_its_end_is_told_to_prometheus(secured: Secured) -> None:
    text = secured.gateway.get("/metrics").body.decode()
    assert 'gw_certificate_expiry_timestamp_seconds{name="web"}' in text
    assert 'gw_certificate_expiry_timestamp_seconds{name="web-ca"}' in text


def test_a_certificate_that_no_longer_fits_is_renewed_while_it_listens(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, https_port=0)
    folder = DoorFolder(settings)
    folder.make()
    load_authority(folder.path, "door")

    async def seen() -> set[str]:
        listener = HttpsListener(settings, renew_s=0.02)
        listener.start(asyncio.Protocol)
        found: set[str] = set()
        try:
            while len(found) < 2:
                if (https := folder.https()) is None:
                    await asyncio.sleep(0.01)
                    continue
                port = urlsplit(https.url).port
                assert port is not None
                found.add(await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port)))
                (folder.path / "web.pem").write_text("no certificate")
        finally:
            await listener.close()
        return found

    assert len(asyncio.run(asyncio.wait_for(seen(), 30))) == 2
    assert folder.https() is None
