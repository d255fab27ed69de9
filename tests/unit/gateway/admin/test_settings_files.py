"""Settings files changed from a console: checked, whole, in their own order, noticed, undone."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from gateway.admin.settings_files import EMPTY, ChangedFileError, SettingsEditor
from shared.config import Settings
from shared.errors import ConfigError, InvalidRequestError, RouteNotFoundError

NAME = "claude_routing.json"
TEXT = '{\n    "tiers": {"opus":   "big", "haiku": "small"}\n}\n'


@pytest.fixture
def editor(tmp_path: Path) -> SettingsEditor:
    (tmp_path / "config").mkdir()
    return SettingsEditor(Settings(state_dir=tmp_path / "state", config_dir=tmp_path / "config"))


def test_a_text_is_written_as_it_came_and_taken_back(editor: SettingsEditor, tmp_path: Path) -> None:
    path = tmp_path / "config" / NAME
    assert editor.read(NAME).tag == EMPTY
    first = editor.write(NAME, TEXT, EMPTY)
    assert path.read_text() == TEXT
    path.chmod(0o640)
    second = editor.write(NAME, TEXT.replace("small", "tiny"), first.tag)
    assert path.stat().st_mode & 0o777 == 0o640, "who may read it stays"
    assert editor.undo(NAME, second.tag).text == TEXT
    assert path.read_text() == TEXT
    assert editor.undo(NAME, first.tag).tag == EMPTY
    assert not path.exists()
    with pytest.raises(InvalidRequestError, match="nothing was written"):
        editor.undo(NAME, EMPTY)
    assert [each.name for each in path.parent.iterdir()] == []


def test_no_edit_from_elsewhere_is_lost_by_going_back(editor: SettingsEditor, tmp_path: Path) -> None:
    path = tmp_path / "config" / NAME
    first = editor.write(NAME, TEXT, EMPTY)
    second = editor.write(NAME, TEXT.replace("small", "tiny"), first.tag)
    assert editor.undoable(NAME, second.tag) == 2
    path.write_text("{}")
    there = editor.read(NAME)
    assert editor.undoable(NAME, there.tag) == 0
    with pytest.raises(InvalidRequestError, match="would lose that"):
        editor.undo(NAME, there.tag)
    assert path.read_text() == "{}"
    third = editor.write(NAME, TEXT, there.tag)
    assert editor.undo(NAME, third.tag).text == "{}", "what stood there from elsewhere comes back"
    assert editor.undoable(NAME, there.tag) == 2


def test_texts_to_go_back_to_of_an_earlier_release_are_still_there(editor: SettingsEditor, tmp_path: Path) -> None:
    (tmp_path / "config" / NAME).write_text("{}")
    (tmp_path / "state" / "before").mkdir(parents=True)
    (tmp_path / "state" / "before" / NAME).write_bytes(orjson.dumps([TEXT]))
    assert editor.undo(NAME, editor.read(NAME).tag).text == TEXT


def test_a_file_that_is_a_link_stays_one_and_its_lines_end_as_they_did(editor: SettingsEditor, tmp_path: Path) -> None:
    path, kept = tmp_path / "config" / NAME, tmp_path / "kept.json"
    text = TEXT.replace("\n", "\r\n")
    kept.write_bytes(text.encode())
    path.symlink_to(kept)
    wrote = editor.write(NAME, "{}", editor.read(NAME).tag)
    assert (path.is_symlink(), kept.read_text()) == (True, "{}\n")
    editor.undo(NAME, wrote.tag)
    assert (path.is_symlink(), kept.read_bytes()) == (True, text.encode())
    assert [each.name for each in path.parent.iterdir()] == [NAME]


def test_a_link_that_leads_nowhere_is_no_end(editor: SettingsEditor, tmp_path: Path) -> None:
    path = tmp_path / "config" / NAME
    path.symlink_to(path)
    assert editor.write(NAME, TEXT, EMPTY).text == TEXT, "one to itself gives way to a file"
    path.unlink()
    path.symlink_to(tmp_path / "away" / NAME)
    with pytest.raises(ConfigError, match="cannot be written"):
        editor.write(NAME, TEXT, EMPTY)


def test_who_changes_another_text_than_what_is_there_is_refused(editor: SettingsEditor, tmp_path: Path) -> None:
    first = editor.write(NAME, TEXT, EMPTY)
    (tmp_path / "config" / NAME).write_text("{}")
    for change in (lambda: editor.write(NAME, TEXT, first.tag), lambda: editor.undo(NAME, first.tag)):
        with pytest.raises(ChangedFileError) as caught:
            change()
        assert caught.value.there.text == "{}"
    assert (tmp_path / "config" / NAME).read_text() == "{}"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (NAME, '{"tiers": {"opus": 3}}', "opus"),
        (NAME, '{"tiers": {}, "fallbacks": {"a": {"on": ["x"], "models": ["b"]}}}', "'x' is no error"),
        (NAME, '{"tiers":\n  oops}', "line 2"),
        (NAME, '"\ud800"', ""),
        ("model_aliases.json", '{"a": ""}', "alias 'a'"),
        ("inference_settings.json", '{"profiles": {"a:b": {}}}', "a:b"),
    ],
)
def test_what_no_gateway_could_use_is_not_written(
    editor: SettingsEditor, tmp_path: Path, name: str, text: str, words: str
) -> None:
    assert words in editor.check(name, text)["fault"]
    with pytest.raises(InvalidRequestError):
        editor.write(name, text, EMPTY)
    assert not (tmp_path / "config" / name).exists()


def test_a_check_shows_the_difference_and_writes_nothing(editor: SettingsEditor, tmp_path: Path) -> None:
    editor.write(NAME, TEXT, EMPTY)
    found = editor.check(NAME, TEXT.replace("small", "tiny"))
    assert found["fault"] == ""
    assert '-    "tiers": {"opus":   "big", "haiku": "small"}' in found["diff"]
    assert (tmp_path / "config" / NAME).read_text() == TEXT


@pytest.mark.parametrize(
    "name", ["remotes.json", "../config/claude_routing.json", "keys.json", "", "/etc/passwd", "a\0b"]
)
def test_no_other_file_is_reached(editor: SettingsEditor, name: str) -> None:
    for act in (
        lambda: editor.read(name),
        lambda: editor.check(name, "{}"),
        lambda: editor.write(name, "{}", EMPTY),
        lambda: editor.undo(name, EMPTY),
    ):
        with pytest.raises(RouteNotFoundError):
            act()


def test_without_a_folder_of_settings_that_is_said(tmp_path: Path) -> None:
    editor = SettingsEditor(Settings(state_dir=tmp_path))
    assert not editor.is_writable
    with pytest.raises(InvalidRequestError, match="--config"):
        editor.write(NAME, TEXT, EMPTY)
