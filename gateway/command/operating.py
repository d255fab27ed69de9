"""The commands of whoever runs a stack: what runs, what it says, how it ends, and what keeps it running."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from gateway.command import logs, processes, trace
from gateway.command.completion import SHELLS
from gateway.command.ends import DONE, FAILED, NOT_RUNNING
from gateway.command.fresh_secrets import write_secrets
from gateway.command.service.manage import Keeper, install, keeper_of, restart, status, uninstall
from gateway.command.service.unit import KINDS, Unit, build_unit
from gateway.dialects.registry import TIERS
from gateway.models.settings_files import find_doubled, find_faults
from shared.cache_settings import read_with_cache_settings
from shared.config import Settings, set_variables
from shared.slips import find_slips

_STOP_S: Final = 60.0


class AddCommand(Protocol):
    """Adds a command to the parser, with what it says of itself."""

    def __call__(self, name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser: ...


def add_commands(command: AddCommand, address: argparse.ArgumentParser, models: argparse.ArgumentParser) -> None:
    stop = command("stop", "Stop the `up` of this state folder, and wait until it has ended.")
    stop.add_argument("--now", action="store_true", help="do not let running requests finish")
    command("ps", "Show the processes of the `up` of this state folder.")
    _add_reading(command)
    config = command("config", "Check the settings, show what is set, or make secrets for docker-compose.yml.")
    config.add_argument("what", choices=("check", "show", "secrets"))
    config.add_argument("folder", type=Path, nargs="?", default=Path(), help="where secrets are written (here)")
    service = command("service", "Have a stack, a gateway or a host start by itself, with launchd or systemd.", models)
    service.add_argument("what", choices=tuple(_SERVICE))
    service.add_argument("kind", nargs="?", choices=KINDS, default="stack")
    service.add_argument("--listen", metavar="HOST:PORT", help="where the gateway listens")
    service.add_argument("--system", action="store_true", help="of the machine, not of this user (systemd)")
    service.add_argument("--print", action="store_true", dest="is_shown", help="show the files, install nothing")
    completion = command("completion", "Print what a shell needs to complete these words.")
    completion.add_argument("shell", choices=SHELLS)


def _add_reading(command: AddCommand) -> None:
    reading = command("logs", "Show the end of the logs of this state folder.")
    reading.add_argument("part", nargs="?", default="", help="gateway, host, up, or a model's name (all)")
    reading.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    reading.add_argument("-n", "--lines", type=int, default=50, help="how many lines of each (50)")
    tracing = command("trace", "Show what came, where it went and why, what was cached, tokens and times.")
    tracing.add_argument("request", nargs="?", default="", help="a request's id, as logs and answers have it")
    tracing.add_argument("--last", type=int, nargs="?", const=1, metavar="N", help="the last N in full (1)")
    tracing.add_argument("--follow", action="store_true", help="each as it ends")
    tracing.add_argument("--full", action="store_true", help="with what was said, where MLX_GATEWAY_DEBUG is 3")
    tracing.add_argument("--json", action="store_true", dest="is_json", help="a line of JSON for each")


# What `mlx-gateway COMMAND --help` ends with; each line is one that works.
EXAMPLES: Final[Mapping[str, tuple[str, ...]]] = {
    "up": ("up", "up --model /models/qwen --port 0", "up --share", "up --model maker/model --config ./settings"),
    "gateway": ("gateway", "gateway --listen 127.0.0.1 --port 8081"),
    "host": ("host --model /models/qwen", "host --name studio --model /models/qwen", "host --drain"),
    "share": ("share",),
    "join": (
        "join ABCDE-FGHJK-MNPQR-STVWX",
        "join studio.local ABCDE-FGHJK-MNPQR-STVWX --model /models/qwen",
    ),
    "hosts": ("hosts",),
    "revoke": ("revoke studio",),
    "use": ("use http://studio.local:8080", "use local"),
    "tier": ("tier",),
    "remotes": ("remotes",),
    "key": ("key create anna", "key list", "key usage --csv", "key revoke anna"),
    "worker": ("worker --model /models/qwen --name qwen",),
    "status": ("status", "status --once", "status --json", "status --url http://studio.local:8080"),
    "models": ("models", "models --local"),
    "pull": ("pull mlx-community/Qwen3-8B-4bit", "pull maker/model-GGUF --quantization Q4_K_M --yes"),
    "rm": ("rm mlx-community/Qwen3-8B-4bit",),
    "load": ("load qwen",),
    "unload": ("unload qwen", "unload qwen --force"),
    "drain": ("drain studio.qwen.18f2",),
    "explain": ("explain req_0123456789abcdef01234567",),
    "upgrade": ("upgrade --check", "upgrade", "upgrade --find-links ./releases"),
    "menu": ("menu",),
    "doctor": ("doctor", "doctor --port 8081"),
    "detector": ("detector", "detector --from ./packages"),
    "launch": ("launch claude", "launch codex --model qwen", "launch claude --print-env", "launch claude -- --resume"),
    "stop": ("stop", "stop --now"),
    "ps": ("ps",),
    "logs": ("logs", "logs gateway -f", "logs qwen -n 200"),
    "trace": ("trace", "trace --last", "trace req_0123456789abcdef01234567", "trace --follow --json"),
    "config": ("config check", "config check --config ./settings", "config show", "config secrets"),
    "service": (
        "service install stack --model /models/qwen",
        "service install host --print",
        "service status stack",
        "service restart stack",
        "service logs stack",
        "service uninstall stack",
    ),
    "completion": ("completion bash > ~/.mlx-gateway-completion",),
}


def _stop(settings: Settings, options: argparse.Namespace) -> int:
    running = processes.need_running(settings.state_dir)
    processes.stop_running(running, wait_s=settings.drain_s + _STOP_S, is_hurried=options.now)
    print(f"stopped ({running.url})")
    return DONE


def _ps(settings: Settings, _: argparse.Namespace) -> int:
    running = processes.need_running(settings.state_dir)
    for part in processes.parts_of(running.pid):
        print(processes.describe_part(part, time.time()))
    return DONE


def _logs(settings: Settings, options: argparse.Namespace) -> int:
    files = logs.find_logs(settings.state_dir, options.part)
    return _show_logs(files, options.lines, is_followed=options.follow)


def _show_logs(files: Mapping[str, Path], count: int, *, is_followed: bool) -> int:
    is_one = len(files) == 1
    for name, path in files.items():
        for line in logs.last_lines_of(path, count):
            print(line if is_one else f"{name}: {line}")
    if is_followed:
        for name, line in logs.following(dict(files)):
            print(line if is_one else f"{name}: {line}", flush=True)
    return DONE


def _trace(settings: Settings, options: argparse.Namespace) -> int:
    folder = settings.state_dir
    if options.follow:
        for told in trace.following(folder):
            _show_trace(told, options)
    elif options.request:
        for told in trace.find_traces(folder, options.request):
            _show_trace(told, options)
    elif options.last:
        for told in trace.last_traces(folder, options.last):
            _show_trace(told, options)
    else:
        for told in trace.last_traces(folder, _LISTED):
            print(trace.render_json(trace.redacted(told)) if options.is_json else trace.render_line(told))
    return DONE


_LISTED: Final = 20


def _show_trace(told: dict[str, object], options: argparse.Namespace) -> None:
    shown = told if options.full else trace.redacted(told)
    print(trace.render_json(shown) if options.is_json else "\n".join(trace.render_trace(shown)), flush=True)


def _config(settings: Settings, options: argparse.Namespace) -> int:
    if options.what == "secrets":
        for path in write_secrets(options.folder, deployment=settings.deployment):
            print(f"wrote {path}")
        return DONE
    if options.what == "show":
        for name, value in set_variables(read_with_cache_settings(settings)).items():
            print(f"{name}={value}")
        return DONE
    faults, slips = [*find_faults(settings), *find_doubled(settings)], list(find_slips(settings, TIERS))
    for line in (*faults, *slips):
        print(line, file=sys.stderr)
    if not faults and not slips:
        print(f"everything that is set is read ({settings.config_dir or 'no settings files'})")
    return FAILED if faults or slips else DONE


def _service(settings: Settings, options: argparse.Namespace) -> int:
    arguments = [word for source in options.model for word in ("--model", source)]
    if options.kind != "gateway":
        arguments += ["--engine", options.engine, *(["--name", options.name] if options.name else [])]
    host, _, port = (options.listen or "").rpartition(":")
    if options.kind != "host" and options.listen:
        arguments += ["--listen", host or "127.0.0.1", "--port", port]
    if settings.config_dir is not None:
        arguments += ["--config", str(settings.config_dir)]
    unit = build_unit(
        options.kind,
        arguments=arguments,
        state_dir=settings.state_dir,
        drain_s=settings.drain_s,
        environment=set_variables(settings, only_given=True, secrets=True),
    )
    return _SERVICE[options.what](unit, keeper_of(unit, is_system=options.system), options)


def _service_install(unit: Unit, keeper: Keeper, options: argparse.Namespace) -> int:
    if options.is_shown:
        for path, content in keeper.files.items():
            print(f"# {path}\n{content.decode()}")
        return DONE
    install(unit, keeper)
    print(f"{keeper.name} keeps it running; its log is {unit.log}")
    return DONE


def _service_uninstall(unit: Unit, keeper: Keeper, _: argparse.Namespace) -> int:
    print("\n".join(f"removed {path}" for path in uninstall(keeper)))
    return DONE


def _service_restart(unit: Unit, keeper: Keeper, _: argparse.Namespace) -> int:
    restart(keeper)
    print(f"{keeper.name} has started it again")
    return DONE


def _service_status(unit: Unit, keeper: Keeper, _: argparse.Namespace) -> int:
    said = status(keeper)
    print(said)
    return DONE if "running" in said else NOT_RUNNING


def _service_logs(unit: Unit, keeper: Keeper, _: argparse.Namespace) -> int:
    files = {path.stem: path for path in (unit.boot_log, unit.log) if path.exists()}
    return _show_logs(files or logs.find_logs(unit.state_dir, unit.log.stem), 50, is_followed=False)


_SERVICE: Final[Mapping[str, Callable[[Unit, Keeper, argparse.Namespace], int]]] = {
    "install": _service_install,
    "restart": _service_restart,
    "status": _service_status,
    "logs": _service_logs,
    "uninstall": _service_uninstall,
}

COMMANDS: Final[Mapping[str, Callable[[Settings, argparse.Namespace], int]]] = {
    "stop": _stop,
    "ps": _ps,
    "logs": _logs,
    "trace": _trace,
    "config": _config,
    "service": _service,
}
