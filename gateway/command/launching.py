"""`mlx-gateway launch`: a coding agent on a local model, and a stack if none is up."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from typing import Final

from gateway.command.agents.base import Agent, Setting, Start
from gateway.command.agents.registry import AGENTS
from gateway.command.elsewhere import checked_url, used_url
from gateway.command.ends import not_running, not_there
from gateway.command.launch import run_agent, started_stack, wait_until_ready
from gateway.command.modes import model_of_mode
from gateway.command.runfile import reachable, read_running
from gateway.command.running_fleet import read_fleet
from gateway.command.served import read_models
from shared.config import Settings, SettingsFile, plain_environment, resolve_source
from shared.errors import ConfigError
from shared.registry import Fleet, parse_models
from shared.remotes import FILE as REMOTES
from shared.remotes import parse_remotes

_FOLDER: Final = "agents"  # in the state folder: files that agents read


def launch_agent(settings: Settings, options: argparse.Namespace) -> int:
    """Becomes the agent; returns where it printed what a shell needs, or ran it beside a stack of its own."""
    agent = AGENTS[options.agent]
    if options.url is None and read_running(settings.state_dir) is None:
        options.url = used_url(settings.state_dir) or None
    if options.print_env:
        sys.stdout.write(_start(settings, options, agent).script(agent.program) + "\n")
        return 0
    program = shutil.which(agent.program)
    if program is None:
        raise not_there(f"{agent.program} is not on the PATH; install it: {agent.install}")
    if options.url is None and read_running(settings.state_dir) is None:
        return _launch_with_stack(settings, options, agent, program)
    start = _start(settings, options, agent)
    os.execve(program, _words(program, start, options), start.environment_in(plain_environment()))


def _launch_with_stack(settings: Settings, options: argparse.Namespace, agent: Agent, program: str) -> int:
    """Nothing is up: start it for as long as the agent runs, on a port of its own."""
    if options.model is not None:
        options.model = resolve_source(options.model)
    arguments = ["--port", "0", "--engine", options.engine, *(["--model", options.model] if options.model else [])]
    with started_stack(settings, arguments) as up:
        wait_until_ready(up, settings)
        start = _start(settings, options, agent)
        return run_agent(_words(program, start, options), start.environment_in(plain_environment()))


def _words(program: str, start: Start, options: argparse.Namespace) -> list[str]:
    return [program, *start.arguments, *options.passed_on]


def _start(settings: Settings, options: argparse.Namespace, agent: Agent) -> Start:
    url, model = _gateway_url(settings, options.url), options.model
    if model is not None and options.url is None and model.startswith((".", "~", "/")):
        model = resolve_source(model)
    if options.mode:
        model = _model_of(settings, options)
    models = read_models(
        url,
        settings.api_key,
        model,
        say=lambda text: print(text, file=sys.stderr, flush=True),
        with_tiers=agent.asks_tiers and not options.mode,  # a mode's model answers for every tier
    )
    folder = settings.state_dir / _FOLDER
    return agent.prepare(Setting(url=url, key=settings.api_key, models=models, folder=folder))


def _model_of(settings: Settings, options: argparse.Namespace) -> str:
    """Raises `ConfigError`."""
    if options.model is not None:
        raise ConfigError("--mode and --model both name the model: give one of them")
    models, remotes = SettingsFile(settings, "models.json").load(), SettingsFile(settings, REMOTES).load()
    fleet = Fleet() if options.url is not None else read_fleet(settings)
    return model_of_mode(options.mode, fleet, parse_models(models) if models else (), parse_remotes(remotes))


def _gateway_url(settings: Settings, given: str | None) -> str:
    if given is not None:
        return checked_url(given)
    running = read_running(settings.state_dir)
    if running is None:
        raise not_running(
            f"nothing is running on {settings.state_dir}: start it with `mlx-gateway up`, or give the --state it was "
            "started with"
        )
    return reachable(running.url)
