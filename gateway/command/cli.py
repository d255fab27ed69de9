"""The `mlx-gateway` command."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import cast

from redis.exceptions import RedisError

from gateway.command.agents.registry import AGENTS
from gateway.command.checks.generation import check_generation, checked_kind
from gateway.command.completion import render_completion
from gateway.command.detector import add_detector_arguments, fetch_detector
from gateway.command.doctor import examine
from gateway.command.elsewhere import LOCAL, REMOTE_COMMANDS, RemoteGateway, checked_url, use, used_url
from gateway.command.ends import END_WORDS, exit_status, not_running, not_there
from gateway.command.explain import explanation_lines
from gateway.command.joining import check_alone, join, rejoin
from gateway.command.keys import add_arguments, run_key
from gateway.command.launching import launch_agent
from gateway.command.leaving import drain_host
from gateway.command.menu import run_menu
from gateway.command.operating import COMMANDS as OPERATING
from gateway.command.operating import EXAMPLES, add_commands
from gateway.command.pulling.command import add_pulling_commands, pull, remove, show_local
from gateway.command.remotes import add_remotes_arguments, show_remotes
from gateway.command.residency import load_model, unload_model
from gateway.command.runfile import read_running
from gateway.command.running_fleet import need_redis, read_fleet, with_running_redis
from gateway.command.sharing import host_lines, https_lines, open_code, revoke, share
from gateway.command.sources import check_sources
from gateway.command.stack import Stack, describe_model
from gateway.command.status import describe_template, show_status
from gateway.command.tiers import add_tier_arguments, change_tier
from gateway.command.upgrade.command import add_upgrade_arguments, run_upgrade
from gateway.command.watching import add_status_arguments
from gateway.dialects.registry import TIERS, VENDOR_NAMES
from gateway.dispatch.jobs import drain
from gateway.door.listing import list_hosts
from gateway.models.dead_names import find_dead_names
from gateway.models.settings_files import Policies, find_doubled, find_faults
from shared.config import Settings, load_settings, own_environment
from shared.connections import build_async_redis
from shared.errors import ConfigError, GatewayError
from shared.keys import Names, word
from shared.log import set_up_logging
from shared.membership import GATEWAY, HOST
from shared.registry import ENGINE_NAMES
from shared.slips import find_slips
from shared.tracing import missing_for_spans


def _shared_parser() -> argparse.ArgumentParser:
    """Of every command."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, metavar="DIR", help="folder of the settings files")
    common.add_argument("--state", type=Path, metavar="DIR", help="folder for logs and caches (~/.mlx-gateway)")
    return common


def _address_parser() -> argparse.ArgumentParser:
    address = argparse.ArgumentParser(add_help=False)
    address.add_argument("--listen", help="address to listen on (127.0.0.1)")
    address.add_argument("--host", dest="listen", help=argparse.SUPPRESS)  # its name until a host was a Mac
    address.add_argument("--port", type=int, help="port to listen on (8080); 0 takes a free one")
    return address


def _models_parser() -> argparse.ArgumentParser:
    models = argparse.ArgumentParser(add_help=False)
    models.add_argument(
        "--model", action="append", default=[], metavar="M", help="folder or Hugging Face id; repeatable"
    )
    models.add_argument("--engine", choices=ENGINE_NAMES, default="mlx")
    models.add_argument("--name", metavar="HOST", help="this Mac's name in the fleet (its host name)")
    return models


def build_parser() -> argparse.ArgumentParser:
    common, address, models = _shared_parser(), _address_parser(), _models_parser()
    parser = argparse.ArgumentParser(prog="mlx-gateway", description="One URL in front of every model you run.")
    parser.add_argument("--version", action="version", version=importlib.metadata.version("mlx-gateway"))
    parser.epilog = "How it ends: " + "; ".join(f"{status}, {text}" for status, text in END_WORDS) + "."
    commands = parser.add_subparsers(dest="command", required=True)

    far = argparse.ArgumentParser(add_help=False)
    far.add_argument("--url", metavar="URL", help="a gateway on another machine, without /v1")

    def command(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        examples = "\n".join(f"  mlx-gateway {example}" for example in EXAMPLES.get(name, ()))
        return commands.add_parser(
            name,
            help=text,
            description=text,
            parents=[common, *parents],
            epilog=f"examples:\n{examples}" if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    _add_starting_commands(command, address, models)
    _add_asking_commands(command, far)
    add_arguments(command("key", "Make, show and revoke keys of other people, and see what they used."))
    add_tier_arguments(command("tier", "Show or change which model answers for a tier, while serving."))
    add_pulling_commands(command)
    add_remotes_arguments(command("remotes", "Show the servers of remotes.json, or look for servers of models."))
    add_upgrade_arguments(command("upgrade", "Install the newest release, and replace what runs, part by part."))
    command("doctor", "Check what this machine has and lacks.", address)
    add_detector_arguments(command("detector", "Fetch Silero's detector of speech for the console's voice."))
    command("menu", "Show what is served in the menu bar of this Mac, and serve as long as it is there.")
    _add_launch_arguments(command("launch", "Run a coding agent on the local models.", far))
    add_commands(command, address, models)
    _add_fleet_commands(command, address, models, far)
    return parser


def _add_starting_commands(
    command: Callable[..., argparse.ArgumentParser], address: argparse.ArgumentParser, models: argparse.ArgumentParser
) -> None:
    """Of what stays."""
    up = command("up", "Run everything on this machine: Redis, gateway, host and workers.", address, models)
    up.add_argument("--share", action="store_true", help="let other Macs join, and make a code for one")
    up.add_argument("--alone", action="store_true", help="also on a Mac that joined another: serve it by itself")
    command("gateway", "Run a gateway alone (needs REDIS_URL).", address)
    host = command("host", "Serve models from this machine (needs REDIS_URL).", models)
    host.add_argument("--drain", action="store_true", help="let the host that runs here finish what it holds and leave")
    worker = command("worker", "Run one worker alone (needs REDIS_URL).")
    worker.add_argument("--model", required=True, metavar="M", help="folder or Hugging Face id")
    worker.add_argument("--engine", choices=ENGINE_NAMES, default="mlx")
    worker.add_argument("--name", help="the name clients use for the model")


def _add_asking_commands(command: Callable[..., argparse.ArgumentParser], far: argparse.ArgumentParser) -> None:
    """Of what runs already."""
    add_status_arguments(command("status", "Show what runs: Macs, models, workers and requests.", far))
    models = command("models", "Show the models that can be asked for.", far)
    models.add_argument("--local", action="store_true", help="those that lie on this machine instead")
    load = command("load", "Load a model that the hosts serve, and wait until it is there.", far)
    load.add_argument("model", help="its name, its source, or an alias")
    unload = command("unload", "Let a model's workers finish what they hold, and free their memory.", far)
    unload.add_argument("model", help="its name, its source, or an alias")
    unload.add_argument("--force", action="store_true", help="also a model that is pinned in models.json")
    command("drain", "Let a worker finish what it holds; its host then starts a new one.", far).add_argument("worker")
    command("explain", "Show why a request went to its worker.").add_argument("request", help="its id, in the log")


def _add_launch_arguments(launch: argparse.ArgumentParser) -> None:
    launch.add_argument("agent", choices=tuple(AGENTS))
    launch.add_argument("--model", metavar="M", help="the model to use (the default one)")
    launch.add_argument(
        "--mode",
        metavar="MODE",
        help="one model for every tier: a backend (mlx, gguf, lmstudio, …), a model or an alias",
    )
    launch.add_argument("--engine", choices=ENGINE_NAMES, default="mlx", help="when nothing is up yet")
    launch.add_argument("--print-env", action="store_true", help="print what a shell needs to run it instead")
    launch.epilog = f"{launch.epilog}\n\nArguments after -- go to the agent."


def _add_fleet_commands(
    command: Callable[..., argparse.ArgumentParser],
    address: argparse.ArgumentParser,
    models: argparse.ArgumentParser,
    far: argparse.ArgumentParser,
) -> None:
    """Of several Macs."""
    sharing = command("share", "Let other Macs join the `up` that runs here, and make a code for one.")
    sharing.add_argument("--gateway", action="store_true", help="for a gateway, which is told the fleet's secret")
    joining = command("join", "Serve models from this machine in the fleet of another Mac.", address, models)
    as_gateway = "be one more gateway of the fleet, and serve no models; the code is of `share --gateway`"
    joining.add_argument("--gateway", action="store_true", help=as_gateway)
    shown = "the sharing Mac, as `mlx-gateway share` prints it; without it, it is looked for in the network"
    joining.add_argument("address", metavar="NAME", nargs="?", help=shown)
    joining.add_argument("code", metavar="CODE", help="the code that it prints; the next start needs none")
    command("hosts", "Show which hosts joined, and whether they live.", far)
    command("revoke", "Lock out a host that joined.", far).add_argument("host", metavar="HOST")
    use_ = command("use", "Choose the gateway that commands ask where nothing runs on this machine.")
    use_.add_argument("target", metavar="URL", help=f"its address without /v1, or {LOCAL!r} for none")


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    split = words.index("--") if "--" in words else len(words)
    options = build_parser().parse_args(words[:split])
    options.passed_on = words[split + 1 :]
    given = vars(options)
    try:
        settings = load_settings(
            {
                "host": given.get("listen"),
                "port": given.get("port"),
                "state_dir": options.state,
                "config_dir": options.config,
            }
        )
        if settings.config_dir is not None and not settings.config_dir.is_dir():
            raise ConfigError(f"--config {settings.config_dir}: there is no such folder")
        if options.command in _STARTING:
            _check_settings(settings)
            _check_models(options)
        else:
            settings = _with_running_settings(settings)
        url = _remote_url(settings, options)
        if url:
            REMOTE_COMMANDS[options.command](RemoteGateway(url, settings.api_key), options)
            return 0
        return _COMMANDS[options.command](settings, options)
    except GatewayError as error:
        print(f"mlx-gateway: {error}", file=sys.stderr)
        return exit_status(error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _remote_url(settings: Settings, options: argparse.Namespace) -> str:
    """The gateway that the command is for, where that is one on another machine."""
    if options.command not in REMOTE_COMMANDS or vars(options).get("local"):
        return ""
    if options.url is not None:
        return checked_url(options.url)
    return "" if settings.redis_url or read_running(settings.state_dir) else used_url(settings.state_dir)


def _use(settings: Settings, options: argparse.Namespace) -> int:
    print(use(settings, options.target))
    return 0


def _up(settings: Settings, options: argparse.Namespace) -> int:
    if options.share and read_running(settings.state_dir) is not None:
        return _share(settings, options)
    if not options.alone:
        check_alone(settings)
    set_up_logging(settings, process="up", level="warning" if settings.log_level == "info" else "")
    stack = Stack(
        settings,
        models=options.model,
        engine=options.engine,
        name=_host_name(settings, options),
        code=open_code(settings) if options.share else None,
        say=lambda text: print(text, file=sys.stderr, flush=True),
        announce=lambda line: print(line, flush=True),
        is_seen=sys.stdout.isatty(),
    )

    async def run() -> None:
        loop = asyncio.get_running_loop()
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
            numbers.append(signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, stack.stop)
        loop.add_signal_handler(signal.SIGUSR1, stack.renew)
        await stack.run()

    asyncio.run(run())
    return 0


def _become(settings: Settings, *module_and_arguments: str) -> int:
    """Turn into another of our programs, with the same settings."""
    words = [sys.executable, "-P", "-m", *module_and_arguments]
    os.execve(sys.executable, words, own_environment(settings))


def _gateway(settings: Settings, _: argparse.Namespace) -> int:
    settings = with_running_redis(settings)
    if not settings.redis_url and (member := rejoin(settings, None, _say, GATEWAY)) is not None:
        settings = member.settings
    return _become(settings, "gateway")


def _host(settings: Settings, options: argparse.Namespace) -> int:
    settings, name = with_running_redis(settings), _host_name(settings, options)
    if not settings.redis_url and (member := rejoin(settings, options.name, _say)) is not None:
        settings, name = member.settings, member.name
    if options.drain:
        asyncio.run(drain_host(need_redis(settings), name, say=_say))
        print(f"{name} has left")
        return 0
    return _become_host(settings, name, options)


def _become_host(settings: Settings, name: str, options: argparse.Namespace) -> int:
    models = [each for source in options.model for each in ("--model", source)]
    return _become(settings, "worker.host.host", "--engine", options.engine, "--name", name, *models)


def _host_name(settings: Settings, options: argparse.Namespace) -> str:
    return options.name or settings.name or socket.gethostname()


def _join(settings: Settings, options: argparse.Namespace) -> int:
    role = GATEWAY if options.gateway else HOST
    member = join(settings, options.address, options.code, _host_name(settings, options), role)
    _say(f"joined as {member.name}, a {role}; the next start needs no code: mlx-gateway {role}")
    if options.gateway:
        return _become(member.settings, "gateway")
    return _become_host(member.settings, member.name, options)


def _share(settings: Settings, options: argparse.Namespace) -> int:
    line, hint = share(settings, GATEWAY if options.gateway else HOST)
    print(line, flush=True)
    _say(hint)
    try:
        for each in https_lines(settings):
            _say(each)
    except ConfigError as error:
        _say(str(error))
    return 0


def _hosts(settings: Settings, _: argparse.Namespace) -> int:
    fleet = read_fleet(settings)
    lines = list(host_lines(list_hosts(settings, {word(host.host) for host in fleet.hosts})))
    print("\n".join(lines) if lines else "no hosts")
    return 0


def _revoke(settings: Settings, options: argparse.Namespace) -> int:
    print(revoke(with_running_redis(settings), options.host))
    return 0


def _worker(settings: Settings, options: argparse.Namespace) -> int:
    name = ["--name", options.name] if options.name else []
    settings = with_running_redis(settings)
    return _become(settings, "worker", "--model", options.model, "--engine", options.engine, *name)


def _completion(_: Settings, options: argparse.Namespace) -> int:
    print(render_completion(build_parser(), options.shell), end="")
    return 0


def _models(settings: Settings, options: argparse.Namespace) -> int:
    if options.local:
        return show_local()
    fleet = read_fleet(settings)
    for model in fleet.model_ids():
        print(model)
    for record in (m for h in fleet.hosts for m in h.models if m.state in ("failed", "no_memory")):
        print(describe_model(record), file=sys.stderr)
    return 0


def _drain(settings: Settings, options: argparse.Namespace) -> int:
    settings = need_redis(settings)

    async def tell() -> bool:
        async with build_async_redis(settings) as broker:
            return await drain(broker, options.worker)

    if not asyncio.run(tell()):
        there = ", ".join(lease.worker for lease in read_fleet(settings).workers) or "none"
        raise not_there(f"no worker is called {options.worker!r}; there are: {there}")
    print(f"{options.worker} drains")
    return 0


def _load(settings: Settings, options: argparse.Namespace) -> int:
    print(asyncio.run(load_model(need_redis(settings), options.model, say=_say)))
    return 0


def _unload(settings: Settings, options: argparse.Namespace) -> int:
    print(asyncio.run(unload_model(need_redis(settings), options.model, is_forced=options.force)))
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _doctor(settings: Settings, _: argparse.Namespace) -> int:
    running = read_running(settings.state_dir)
    findings = examine(settings)
    if running is not None:
        ready = {
            lease.model: checked_kind(lease.kinds) for lease in read_fleet(settings).workers if lease.state == "ready"
        }
        for model, kind in sorted(each for each in ready.items() if each[1]):
            findings = chain(findings, check_generation(running.url, settings.api_key, [model], kind))
    is_sound = True
    for finding in findings:
        mark = "ok  " if finding.is_fine else "FAIL" if finding.is_needed else "note"
        print(f"{mark} {finding.subject}: {finding.text}", flush=True)
        is_sound = is_sound and (finding.is_fine or not finding.is_needed)
    if running is not None:
        _examine_running(settings)
    return 0 if is_sound else 1


def _examine_running(settings: Settings) -> None:
    fleet = read_fleet(settings)
    for lease in (each for each in fleet.workers if each.template):
        mark = "note" if lease.template.keys() & {"missing", "unread"} else "ok  "
        print(f"{mark} chat template of {lease.model}: {describe_template(lease.template)}")
    if any(find_faults(settings)):
        return  # which has been told
    policies = Policies(settings)
    dead = find_dead_names(
        fleet,
        policies.routes(),
        VENDOR_NAMES,
        sampled=policies.sampling(),
        ruled=[rule.model for rule in policies.rules()],
        instead={name: each.models for name, each in policies.fallbacks().items()},
    )
    for line in dead:
        print(f"note names: {line}")


def _check_models(options: argparse.Namespace) -> None:
    """Raises `ConfigError` for a model that is not on this machine."""
    named = getattr(options, "model", None) or []
    check_sources([named] if isinstance(named, str) else named, getattr(options, "engine", ""))


def _check_settings(settings: Settings) -> None:
    """Raises `ConfigError` for files that cannot be used, and tells what in them nobody reads."""
    faults = list(find_faults(settings))
    if faults:
        raise ConfigError("\n  ".join(faults))
    for note in (*find_doubled(settings), *find_slips(settings, TIERS), *missing_for_spans()):
        print(f"mlx-gateway: note: {note}", file=sys.stderr)


def _with_running_settings(settings: Settings) -> Settings:
    """With the settings files of the `up` that runs on this state folder, when no others were given."""
    running = read_running(settings.state_dir)
    if settings.config_dir is not None or running is None or not running.config_dir:
        return settings
    return replace(settings, config_dir=Path(running.config_dir))


def _explain(settings: Settings, options: argparse.Namespace) -> int:
    settings = need_redis(settings)

    async def read() -> dict[bytes, bytes]:
        async with build_async_redis(settings) as broker:
            return cast(dict[bytes, bytes], await broker.hgetall(Names(settings.deployment).why(options.request)))

    try:
        lines = explanation_lines(options.request, asyncio.run(read()))
    except (RedisError, OSError) as error:
        raise not_running(f"nothing answers here: {error}") from error
    if not lines:
        raise not_there(f"nothing is known of {options.request}: it was never placed, or more than 15 minutes ago")
    print("\n".join(lines))
    return 0


_COMMANDS = {
    "up": _up,
    "gateway": _gateway,
    "host": _host,
    "worker": _worker,
    "share": _share,
    "join": _join,
    "hosts": _hosts,
    "revoke": _revoke,
    "use": _use,
    "status": show_status,
    "models": _models,
    "pull": pull,
    "rm": remove,
    "load": _load,
    "unload": _unload,
    "drain": _drain,
    "explain": _explain,
    "key": run_key,
    "tier": lambda settings, options: change_tier(settings, options, read_fleet(need_redis(settings))),
    "remotes": show_remotes,
    "upgrade": run_upgrade,
    "doctor": _doctor,
    "detector": fetch_detector,
    "menu": lambda settings, _: run_menu(settings),
    "launch": launch_agent,
    "completion": _completion,
    **OPERATING,
}
_STARTING = ("up", "gateway", "host", "worker", "join")  # what stays, and reads the settings


if __name__ == "__main__":
    sys.exit(main())
