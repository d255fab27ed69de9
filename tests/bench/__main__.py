"""`python -m tests.bench [PART]`: run the contenders in alternation on one model and print the tables."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import platform
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from tests.bench.admission import measure_admission
from tests.bench.against import files_of, measure_against, stacks
from tests.bench.backends import measure_backends
from tests.bench.bits import measure_bits
from tests.bench.bodies import measure_bodies
from tests.bench.chunks import measure_chunks
from tests.bench.classes import measure_classes
from tests.bench.contenders import Bare, Contender, MlxServer, Stack
from tests.bench.counts import measure_counts
from tests.bench.detectors import measure_detectors
from tests.bench.doors import measure_door
from tests.bench.growth import measure_growth
from tests.bench.held import measure_held
from tests.bench.hot import measure_hot_turns, measure_joining
from tests.bench.idle import measure_idle
from tests.bench.overhead import measure_overhead
from tests.bench.pinned import measure_pinned
from tests.bench.plan import plan_table
from tests.bench.prompts import Renderer, build_short
from tests.bench.report import Table
from tests.bench.restarts import measure_restart
from tests.bench.sampling import measure_sampling
from tests.bench.scaling import measure_scaling
from tests.bench.seals import measure_seals
from tests.bench.sides import measure_sides
from tests.bench.simulated import measure_simulated
from tests.bench.soak import measure_soak
from tests.bench.speculation import measure_speculation
from tests.bench.stalls import measure_stalls
from tests.bench.streams import measure_streams
from tests.bench.templates import measure_templates
from tests.bench.transfer import measure_transfer
from tests.bench.turns import measure_turns
from tests.models.random_checkpoint import PRESETS, build_checkpoint
from tests.support import undertaker

PARTS = (
    "admission",
    "simulated",
    "chunks",
    "sampling",
    "seal",
    "overhead",
    "bodies",
    "templates",
    "counts",
    "classes",
    "speculation",
    "held",
    "bits",
    "backends",
    "transfer",
    "door",
    "growth",
    "hot",
    "pinned",
    "turns",
    "streams",
    "stalls",
    "sides",
    "restart",
)
APART = (
    "plan",
    "soak",
    "idle",
    "scaling",
    "detectors",
)  # asked for by name only: the first measures nothing, the others take long


@contextlib.asynccontextmanager
async def started(contenders: Sequence[Contender]) -> AsyncIterator[None]:
    """All of them up and warmed by one small request, all of them down at the end."""
    async with contextlib.AsyncExitStack() as stack:
        for contender in contenders:
            stack.push_async_callback(contender.stop)
            await contender.start()
            await contender.answers([build_short(f"warm-{n}", max_tokens=8) for n in range(2)])
        yield


def choose_contenders(names: Sequence[str], model: Path, renderer: Renderer) -> list[Contender]:
    """The bare engine comes last: it is what the others are compared to."""
    chosen: list[Contender] = []
    if "stack" in names:
        chosen.append(Stack(model))
    if "mlx_lm" in names:
        chosen.append(MlxServer(model))
    return [*chosen, Bare(model, renderer)]


async def run(arguments: argparse.Namespace, model: Path) -> None:
    parts = PARTS if arguments.part == "all" else (arguments.part,)
    renderer = Renderer(model)
    salt = secrets.token_hex(4)
    if "growth" in parts:
        print(measure_growth(renderer).render() + "\n", flush=True)
    if "hot" in parts:
        with tempfile.TemporaryDirectory() as folder:
            print(measure_hot_turns(Path(folder)).render() + "\n", flush=True)
            print(measure_joining(Path(folder)).render() + "\n", flush=True)
    if "pinned" in parts:
        await _show("pinned", measure_pinned(model, renderer))
    beside = [part for part in parts if part in ("turns", "streams", "stalls", "sides")]
    if beside:
        contenders = choose_contenders(arguments.contenders.split(","), model, renderer)
        measuring: dict[str, Callable[[], Awaitable[Table]]] = {
            "turns": lambda: measure_turns(contenders, renderer, tokens=arguments.tokens, salt=salt),
            "streams": lambda: measure_streams(contenders),
            "stalls": lambda: measure_stalls(contenders, renderer),
            "sides": lambda: measure_sides(contenders, renderer, tokens=arguments.tokens, salt=salt),
        }
        async with started(contenders):
            for part in beside:
                await _show(part, measuring[part]())
    if "restart" in parts:
        await _show("restart", measure_restart(model, renderer, tokens=arguments.tokens, salt=salt))


async def run_against(revision: str, other: Path, model: Path) -> None:
    contenders = stacks(model, other, revision)
    async with started(contenders):
        await _show("against", measure_against(contenders, Renderer(model)))


async def _show(part: str, measuring: Awaitable[Table]) -> None:
    print(f"... {part}", flush=True)
    print((await measuring).render() + "\n", flush=True)


def main() -> None:
    arguments = _parse()
    print(f"{platform.system()} {platform.machine()}, Python {platform.python_version()}\n", flush=True)
    if arguments.part == "against":
        against(arguments)
        return
    if arguments.part in APART:
        _run_apart(arguments)
        return
    with tempfile.TemporaryDirectory(prefix="mlxgw-bench-") as folder:
        without_checkpoint = _without_checkpoint(arguments, Path(folder))
        for part, measuring in without_checkpoint.items():
            if arguments.part in ("all", part):
                print(f"... {part}", flush=True)
                print(measuring().render() + "\n", flush=True)
        if arguments.part in without_checkpoint:
            return
        for model in _models(arguments, Path(folder)):
            print(f"model: {model.name}\n", flush=True)
            asyncio.run(run(arguments, model))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("part", nargs="?", default="all", choices=("all", "against", *PARTS, *APART))
    parser.add_argument("revision", nargs="?", default="HEAD", help="of `against`: what this one is compared to")
    parser.add_argument("--presets", help=f"random models, one after another (default full): {', '.join(PRESETS)}")
    parser.add_argument("--params", type=float, default=1.4e6)
    parser.add_argument("--model", type=Path, help="a checkpoint of your own instead")
    parser.add_argument("--tokens", type=int, default=18_490, help="length of the cold prompt")
    parser.add_argument("--requests", type=int, default=600, help="how many the overhead part measures")
    parser.add_argument("--soak-requests", type=int, default=20_000, help="how many the soak part makes")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each room, in the detectors part")
    parser.add_argument("--contenders", default="stack,mlx_lm", help="beside the bare engine: stack, mlx_lm")
    return parser.parse_args()


def _without_checkpoint(arguments: argparse.Namespace, folder: Path) -> dict[str, Callable[[], Table]]:
    """The parts that need none of the checkpoints that the others share, by name."""
    return {
        "admission": measure_admission,
        "simulated": measure_simulated,
        "chunks": measure_chunks,
        "sampling": measure_sampling,
        "seal": measure_seals,
        "overhead": lambda: asyncio.run(measure_overhead(requests=arguments.requests)),
        "bodies": lambda: asyncio.run(measure_bodies()),
        "templates": measure_templates,
        "counts": measure_counts,
        "classes": lambda: asyncio.run(measure_classes(folder, arguments.params)),
        "speculation": lambda: measure_speculation(folder, arguments.params),
        "held": lambda: measure_held(folder, arguments.params),
        "bits": lambda: measure_bits(folder),
        "backends": lambda: measure_backends(folder),
        "transfer": lambda: measure_transfer(folder),
        "door": lambda: measure_door(folder / "door"),
    }


def against(arguments: argparse.Namespace) -> None:
    with files_of(arguments.revision) as other, tempfile.TemporaryDirectory(prefix="mlxgw-bench-") as folder:
        for model in _models(arguments, Path(folder), presets="full,window,hybrid"):
            print(f"model: {model.name}\n", flush=True)
            asyncio.run(run_against(arguments.revision, other, model))


def _run_apart(arguments: argparse.Namespace) -> None:
    if arguments.part == "plan":
        print(plan_table().render(), flush=True)
        return
    if arguments.part == "scaling":
        print(asyncio.run(measure_scaling()).render() + "\n", flush=True)
        return
    if arguments.part == "detectors":
        with tempfile.TemporaryDirectory(prefix="mlxgw-detectors-") as folder:
            print(measure_detectors(Path(folder), arguments.seconds).render() + "\n", flush=True)
        return
    if arguments.part == "idle":
        for table in measure_idle():
            print(table.render() + "\n", flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="mlxgw-soak-") as folder:
        for table in measure_soak(Path(folder), arguments.soak_requests):
            print(table.render() + "\n", flush=True)


def _models(arguments: argparse.Namespace, folder: Path, *, presets: str = "full") -> Iterator[Path]:
    if arguments.model:
        yield arguments.model
        return
    for preset in (arguments.presets or presets).split(","):
        yield build_checkpoint(preset, folder / f"bench-{preset}", params=arguments.params)


if __name__ == "__main__":
    undertaker.begin()
    main()
