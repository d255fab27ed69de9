"""Names that stand twice in one object of a settings file: told with their place, by whatever reads the file."""

from __future__ import annotations

import logging
from pathlib import Path

import orjson
import pytest

from gateway.admin.settings_files import SettingsEditor
from gateway.command.doctor import _settings as settings_finding
from gateway.models.settings_files import Policies, find_doubled
from shared.config import SETTINGS_FILES, Settings
from shared.doubled_names import doubled_names

DOUBLED = '{\n  "tiers": {"opus": "a", "haiku": "b",\n    "opus": "c"}\n}\n'
TOLD = "line 3, column 5: 'tiers.opus' is named again (first in line 2), and this alone counts"


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("{}", []),
        ("[]", []),
        ("3", []),
        ('"a: \\" {"', []),
        ('{"a": {"b": 1}, "b": {"b": 2}}', []),
        ('{"a": "a", "b": ["a", "a"]}', []),
        ('[{"a": 1}, {"a": 2}]', []),
        ('{"a": "{\\"a\\": 1, \\"a\\": 2}"}', []),
        ('{"a": 1, "a": 2}', ["'a'"]),
        ('{"a": 1, "a": 2, "a": 3}', ["'a'", "'a'"]),
        ('{"a": 1, "\\u0061": 2}', ["'a'"]),
        ('{"a": {"x": [0, {"k": 1, "k": [2]}]}, "b": 1}', ["'a.x.1.k'"]),
        ('{"a": {"c": 1}, "b": {"c": 1, "c": {"d": 1, "d": 2}}, "a": {}}', ["'b.c'", "'b.c.d'", "'a'"]),
        ('{"": 1, "": 2}', ["''"]),
        ('[[{"ä:\\n{": 1, "ä:\\n{": 2}]]', ["'0.0.ä:\\n{'"]),
    ],
)
def test_each_is_told_with_its_path(text: str, places: list[str]) -> None:
    orjson.loads(text)
    assert [line.split(": ", 1)[1].rpartition(" is named")[0] for line in doubled_names(text)] == places


def test_the_lines_of_both_are_told() -> None:
    assert [*doubled_names(DOUBLED)] == [TOLD]


@pytest.mark.parametrize("name", SETTINGS_FILES)
def test_checks_tell_them_of_every_settings_file(tmp_path: Path, name: str) -> None:
    settings = Settings(state_dir=tmp_path / "state", config_dir=tmp_path)
    (tmp_path / name).write_text('{"models": [], "models": []}')
    assert [*find_doubled(settings)] == [
        f"{tmp_path / name}: line 1, column 16: 'models' is named again (first in line 1), and this alone counts"
    ]
    finding = settings_finding(settings)
    assert (finding.is_fine, finding.is_needed, "'models' is named again" in finding.text) == (False, True, True)


def test_the_console_writes_no_such_file(tmp_path: Path) -> None:
    editor = SettingsEditor(Settings(state_dir=tmp_path / "state", config_dir=tmp_path))
    name = "claude_routing.json"
    assert editor.check(name, DOUBLED)["fault"] == f"{name}: {TOLD}"
    assert editor.check(name, DOUBLED.replace('"opus": "a", ', ""))["fault"] == ""


def test_a_file_that_a_gateway_reads_is_in_force_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once for each time that it was written."""
    policies = Policies(Settings(state_dir=tmp_path / "state", config_dir=tmp_path))
    with caplog.at_level(logging.WARNING):
        (tmp_path / "claude_routing.json").write_text(DOUBLED)
        assert policies.faults() == ()
        assert policies.routes().tiers["opus"].model == "c"
    assert caplog.messages == [f"{tmp_path / 'claude_routing.json'}: {TOLD}"]
