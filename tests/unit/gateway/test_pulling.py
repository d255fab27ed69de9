"""Models that a person fetches, looks at and deletes. The hub is a stand-in, which says so; its own package asks it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.command.ends import FAILED, NOT_THERE, UNUSABLE
from gateway.command.pulling.plan import HubFile, Machine, check_disk, choose, told
from shared.errors import ConfigError
from tests.support.hub_stand_in import HubStandIn, serving_hub
from tests.support.up import run_command

GB = 10**9
SMALL = Machine(memory_bytes=16 * GB, disk_bytes=500 * GB)
MLX = {
    "config.json": b"{}",
    "model.safetensors": b"w" * 5000,
    "tokenizer.json": b"{ }",
    "README.md": b"x",
    "old.bin": b"y",
}
GGUF = {"a-Q4_K_M.gguf": b"q" * 400, "a-Q8_0.gguf": b"Q" * 800, "mmproj-a-F16.gguf": b"m" * 50}


def files(**sizes: float) -> list[HubFile]:
    return [HubFile(name=name, size_bytes=int(size * GB)) for name, size in sizes.items()]


def test_the_largest_quantisation_that_fits_is_chosen_with_all_of_its_parts() -> None:
    there = files(**{
        "m-Q4_K_M.gguf": 5, "m-Q8_0-00001-of-00002.gguf": 5, "m-Q8_0-00002-of-00002.gguf": 5, "m-BF16.gguf": 16,
        "UD/m-UD-IQ2_XXS.gguf": 2, "mmproj-F16.gguf": 1, "README.md": 0,
    })  # fmt: skip
    chosen = choose("a/m", there, SMALL)
    assert (chosen.label, len(chosen.files), chosen.others) == ("Q8_0", 2, ("UD-IQ2_XXS", "Q4_K_M", "BF16"))
    tight = Machine(memory_bytes=8 * GB, disk_bytes=500 * GB)
    assert choose("a/m", there, tight).label == "Q4_K_M"
    large = choose("a/m", there, tight, "bf16")
    assert large.label == "BF16"
    assert any("DOES NOT FIT" in line for line in told("a/m", large, tight)), "a person may want it all the same"
    for machine, wanted, words in (
        (Machine(memory_bytes=GB, disk_bytes=0), "", "fits"),
        (SMALL, "Q5_K", "there are: UD"),
    ):
        with pytest.raises(ConfigError, match=words):
            choose("a/m", there, machine, wanted)


def test_of_an_mlx_model_what_is_needed_to_run_it_is_fetched() -> None:
    there = [HubFile(name=name, size_bytes=len(data)) for name, data in MLX.items()]
    assert [file.name for file in choose("a/m", there, SMALL).files] == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    with pytest.raises(ConfigError, match="nothing here could run it"):
        choose("a/m", files(**{"pytorch_model.bin": 1, "config.json": 0}), SMALL)


def test_a_disk_without_room_is_told_before_anything_is_fetched() -> None:
    chosen = choose("a/m", files(**{"m-Q4_0.gguf": 5}), SMALL)
    check_disk(chosen, Machine(memory_bytes=16 * GB, disk_bytes=8 * GB))
    check_disk(chosen, Machine(memory_bytes=16 * GB, disk_bytes=3 * GB), fetched_bytes=4 * GB)
    with pytest.raises(ConfigError, match=r"lacks 2\.0 GB"):
        check_disk(chosen, Machine(memory_bytes=16 * GB, disk_bytes=5 * GB))


@dataclass(frozen=True)
class Hub:
    stand_in: HubStandIn
    env: dict[str, str | None]

    def run(self, *words: str) -> tuple[int, str]:
        done = run_command(*words, env=self.env)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub", reason="it comes with the extra mlx")
    stand_in = HubStandIn({"maker/mlx": MLX, "maker/gguf": GGUF})
    with serving_hub(stand_in) as url:
        env: dict[str, str | None] = {
            "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path), "HF_HUB_OFFLINE": None,
            "HF_HUB_CACHE": None, "HF_HUB_DISABLE_XET": "1", "MLX_GATEWAY_STATE_DIR": str(tmp_path / "state"),
        }  # fmt: skip
        yield Hub(stand_in, env)


def test_a_model_is_fetched_listed_and_deleted(hub: Hub) -> None:
    status, said = hub.run("pull", "maker/mlx")
    assert (status, "say --yes" in said, hub.stand_in.asked) == (UNUSABLE, True, []), "nothing is fetched unasked"
    assert "maker/mlx: mlx, 3 files, 0.00 GB" in said
    status, said = hub.run("pull", "maker/mlx", "--yes")
    assert (status, "[2/3] model.safetensors" in said) == (0, True)
    fetched = {name for method, name, _ in hub.stand_in.asked if method == "GET"}
    assert fetched == {"config.json", "model.safetensors", "tokenizer.json"}
    status, said = hub.run("models", "--local")
    assert (status, "maker/mlx  mlx" in said, "unfinished" in said) == (0, True, False)
    status, said = hub.run("rm", "maker/mlx", "--yes")
    assert (status, "is deleted" in said) == (0, True)
    assert hub.run("rm", "maker/mlx", "--yes")[0] == NOT_THERE


@pytest.mark.slow
def test_a_gguf_model_is_fetched_by_its_quantisation_and_unknown_ones_are_named(hub: Hub) -> None:
    status, said = hub.run("pull", "maker/gguf", "--quantization", "Q4_K_M", "--yes")
    assert (status, "a-Q4_K_M.gguf" in said.splitlines()[-1]) == (0, True)
    assert {name for method, name, _ in hub.stand_in.asked if method == "GET"} == {"a-Q4_K_M.gguf"}
    status, said = hub.run("pull", "maker/none", "--yes")
    assert (status, "no model 'maker/none'" in said) == (NOT_THERE, True)


@pytest.mark.slow
def test_what_broke_off_is_gone_on_from(hub: Hub) -> None:
    """Within a file while the command runs; by another command, at the file that is missing."""
    hub.stand_in.breaks_at["model.safetensors"] = 2000
    status, said = hub.run("pull", "maker/mlx", "--yes")
    assert (status, "Traceback" in said) == (0, False)
    gets = [each for each in hub.stand_in.asked if each[0] == "GET" and each[1] == "model.safetensors"]
    assert len(gets) == 2, "from where it was, in steps of the package's 10 MB"
    (cached,) = Path(str(hub.env["HF_HOME"])).glob("hub/*/snapshots/*/tokenizer.json")
    cached.resolve().unlink()
    hub.stand_in.asked.clear()
    assert hub.run("pull", "maker/mlx", "--yes")[0] == 0
    assert [each for each in hub.stand_in.asked if each[0] == "GET"] == [("GET", "tokenizer.json", 0)]


@pytest.mark.slow
def test_a_hub_that_is_away_is_said_in_a_line(hub: Hub) -> None:
    env = {**hub.env, "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = run_command("pull", "maker/mlx", "--yes", env=env)
    assert (done.returncode, "Traceback" in done.stderr, "could not be fetched" in done.stderr) == (FAILED, False, True)
