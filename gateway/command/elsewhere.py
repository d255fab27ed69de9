"""Commands against a gateway on another machine: its URL and a key are all that is known of it."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from gateway.command.ends import failed, not_running
from gateway.command.served import connect, refusal
from gateway.command.sharing import host_lines
from gateway.command.watching import wants_table, watch
from shared.config import Settings
from shared.errors import ConfigError
from shared.private_files import private_folder, write_private

LOCAL: Final = "local"
_FILE: Final = "gateway.json"
_ASK_EVERY_S = 2.0
_LOAD_S = 600.0


def checked_url(text: str) -> str:
    """Raises `ConfigError`."""
    address = urlsplit(text)
    if address.scheme not in ("http", "https") or not address.hostname or address.path.strip("/"):
        raise ConfigError(f"{text}: expected the address of a gateway, such as http://studio.local:8080")
    return text.rstrip("/")


def used_url(state_dir: Path) -> str:
    """The gateway that `mlx-gateway use` chose for this state folder; empty for none. Raises `ConfigError`."""
    try:
        return checked_url(str(json.loads((state_dir / _FILE).read_bytes())["url"]))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{state_dir / _FILE} cannot be read: {error}") from error


def use(settings: Settings, target: str) -> str:
    """Choose the gateway that commands ask from now on, or none. What is the case then, for a person."""
    path = private_folder(settings.state_dir) / _FILE
    if target == LOCAL:
        path.unlink(missing_ok=True)
        return "commands ask what runs on this machine"
    url = checked_url(target)
    models = RemoteGateway(url, settings.api_key).models()
    write_private(path, json.dumps({"url": url}).encode())
    return f"commands ask {url} ({len(models)} models), unless something runs on this machine"


class RemoteGateway:
    """Every method raises `ConfigError` in the gateway's words, or when nothing answers."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._headers: dict[str, str | bytes] = {}
        if key:
            self._headers["authorization"] = b"Bearer " + key.encode("utf-8", "surrogateescape")

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def act(self, action: str, name: str) -> str:
        """What was done, for a person."""
        return str(self._ask("POST", f"/admin/{action}/{quote(name, safe='')}")["done"])

    def models(self) -> list[str]:
        return [str(each["id"]) for each in self.get("/v1/models")["data"]]

    def _ask(self, method: str, path: str) -> Any:
        connection = connect(self.url)
        try:
            connection.request(method, path, headers=self._headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
            status = response.status
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise not_running(f"{self.url}: no gateway answers ({error})") from error
        finally:
            connection.close()
        if status != http.HTTPStatus.OK:
            raise refusal(self.url, status, answer)
        return answer


def status_lines(answer: Mapping[str, Any], url: str) -> Iterator[str]:
    """Of what `GET /status` gives, for a person."""
    yield f"gateway  {url}"
    for host in answer["hosts"]:
        yield f"host     {host['name']}"
        for model in host["models"]:
            reason = f" ({model['reason']})" if model.get("reason") else ""
            yield f"  {model['id']} is {model['state']}{reason}"
    for worker in answer["workers"]:
        yield f"worker   {worker['name']}  {worker['model']}  {worker['state']}  {worker['in_flight']} requests"
    for stranger in answer["strangers"]:
        yield f"{stranger['kind']:<8} {stranger['name']}  gets no work: {stranger['reason']}"


def _status(gateway: RemoteGateway, options: argparse.Namespace) -> None:
    def read() -> Mapping[str, Any]:
        return gateway.get("/status")  # type: ignore[no-any-return]

    if options.is_json:
        _print(json.dumps(read(), indent=2))
    elif wants_table(options):
        watch(read, gateway.url)
    else:
        _print(*status_lines(read(), gateway.url))


def _models(gateway: RemoteGateway, _: argparse.Namespace) -> None:
    _print(*gateway.models())


def _hosts(gateway: RemoteGateway, _: argparse.Namespace) -> None:
    _print(*host_lines(gateway.get("/admin/hosts")["hosts"]))


def _drain(gateway: RemoteGateway, options: argparse.Namespace) -> None:
    _print(gateway.act("drain", options.worker))


def _revoke(gateway: RemoteGateway, options: argparse.Namespace) -> None:
    _print(gateway.act("revoke", options.host))


def _unload(gateway: RemoteGateway, options: argparse.Namespace) -> None:
    if options.force:
        raise ConfigError("--force is for who sits at the Mac that has the model")
    _print(gateway.act("unload", options.model))


def _load(gateway: RemoteGateway, options: argparse.Namespace) -> None:
    """Asks until the model is there: hosts may come meanwhile."""
    end_s = time.monotonic() + _LOAD_S
    said = ""
    while not said.endswith("is ready"):
        if time.monotonic() > end_s:
            raise failed(f"{options.model} did not come: `mlx-gateway status` says how it is")
        done = gateway.act("load", options.model)
        if done != said:
            _print(done)
        said = done
        broken = [each for each in _records(gateway) if each["id"] == said.split()[0] and each["state"] == "failed"]
        if broken:
            raise failed(f"{broken[0]['id']} cannot be loaded: {broken[0].get('reason', '')}")
        if not said.endswith("is ready"):
            time.sleep(_ASK_EVERY_S)


def _records(gateway: RemoteGateway) -> list[dict[str, Any]]:
    return [model for host in gateway.get("/status")["hosts"] for model in host["models"]]


def _print(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


REMOTE_COMMANDS: Final[Mapping[str, Callable[[RemoteGateway, argparse.Namespace], None]]] = {
    "status": _status,
    "models": _models,
    "hosts": _hosts,
    "drain": _drain,
    "revoke": _revoke,
    "load": _load,
    "unload": _unload,
}
