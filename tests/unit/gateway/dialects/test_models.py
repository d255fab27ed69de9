from __future__ import annotations

import pytest
from anthropic.types import ModelCapabilities, ModelInfo
from openai.types import Model as OpenAIModel

from gateway.dialects.anthropic.models import cut_page, parse_page
from gateway.dialects.registry import ANTHROPIC, OPENAI_CHAT
from shared.errors import InvalidRequestError
from shared.registry import Fleet, ModelRecord
from tests.support.fleet import host, lease

FLEET = Fleet(
    workers=(lease("tiny", context_tokens=4096), lease("tiny", worker="b", context_tokens=2048)),
    hosts=(host(ModelRecord(id="big", state="available"), ModelRecord(id="broken", state="failed")),),
)


def test_openai_clients_see_plain_ids_of_everything_that_can_be_asked_for() -> None:
    assert [model["id"] for model in OPENAI_CHAT.render_models(FLEET, {})["data"]] == ["big", "tiny"]


def test_anthropic_clients_see_ids_that_claude_code_discovers() -> None:
    listed = ANTHROPIC.render_models(FLEET, {})
    assert [model["id"] for model in listed["data"]] == ["anthropic/big", "anthropic/tiny"]
    assert (listed["first_id"], listed["last_id"]) == ("anthropic/big", "anthropic/tiny")
    assert [model["display_name"] for model in listed["data"]] == ["big", "tiny"]


def test_the_window_is_the_smallest_among_the_workers_and_left_out_while_unknown() -> None:
    assert ANTHROPIC.render_model(FLEET, "tiny", name="")["max_input_tokens"] == 2048
    assert "max_input_tokens" not in ANTHROPIC.render_model(FLEET, "big", name="")


@pytest.mark.parametrize("others_see", [True, False])
def test_a_model_reads_images_when_each_of_its_workers_does(others_see: bool) -> None:
    workers = (
        lease("eyes", context_tokens=9, supports_images=True),
        lease("eyes", worker="b", supports_images=others_see, context_tokens=9),
    )
    capabilities = ANTHROPIC.render_model(Fleet(workers=workers), "eyes", name="")["capabilities"]
    assert capabilities["image_input"] == {"supported": others_see}
    assert ModelCapabilities.model_validate(capabilities).image_input.supported is others_see


@pytest.mark.parametrize(("made_at_s", "text"), [(1_700_000_000, "2023-11-14T22:13:20Z"), (0, "1970-01-01T00:00:00Z")])
def test_a_models_date_is_said_in_each_vendors_form(made_at_s: int, text: str) -> None:
    fleet = Fleet(workers=(lease("tiny", made_at_s=made_at_s), lease("other", made_at_s=5)))
    assert ANTHROPIC.render_model(fleet, "tiny", name="")["created_at"] == text
    assert OPENAI_CHAT.render_model(fleet, "tiny", name="")["created"] == made_at_s
    assert OPENAI_CHAT.render_models(fleet, {})["data"][1]["created"] == made_at_s
    assert ANTHROPIC.render_models(fleet, {})["data"][1]["created_at"] == text


def test_an_empty_list_has_no_first_and_last() -> None:
    assert ANTHROPIC.render_models(Fleet(), {}) == {
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }


@pytest.mark.parametrize(
    ("query", "page", "has_more"),
    [
        ({}, "abcde", False),
        ({"limit": "2"}, "ab", True),
        ({"limit": "5"}, "abcde", False),
        ({"limit": "2", "after_id": "anthropic/b"}, "cd", True),
        ({"limit": "2", "after_id": "c"}, "de", False),
        ({"after_id": "e"}, "", False),
        ({"limit": "2", "before_id": "anthropic/d"}, "bc", True),
        ({"limit": "9", "before_id": "d"}, "abc", False),
        ({"before_id": "a"}, "", False),
    ],
)
def test_a_page_is_what_stands_next_to_its_cursor(query: dict[str, str], page: str, has_more: bool) -> None:
    assert cut_page(tuple("abcde"), parse_page(query)) == (tuple(page), has_more)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"after_id": "gone"}, "after_id"),
        ({"before_id": "gone"}, "before_id"),
        ({"after_id": "a", "before_id": "b"}, "after_id"),
    ],
)
def test_a_page_that_cannot_be_is_refused_by_the_fields_name(query: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{named}: "):
        cut_page(("a", "b"), parse_page(query))


def test_what_is_known_of_the_chat_template_stands_among_the_capabilities() -> None:
    said = {"rendering": "window", "calls": "json_tools", "unread": "two calls"}
    fleet = Fleet(workers=(lease("told", context_tokens=9, template=said), lease("untold", context_tokens=9)))
    capabilities = ANTHROPIC.render_model(fleet, "told", name="")["capabilities"]
    assert capabilities["chat_template"] == said
    assert ModelCapabilities.model_validate(capabilities)
    assert "chat_template" not in ANTHROPIC.render_model(fleet, "untold", name="")["capabilities"]


def test_strict_clients_of_the_newest_packages_read_every_model() -> None:
    """The packages validate nothing unless they are told to: then a field that is missing fails the whole list."""
    for model in ANTHROPIC.render_models(FLEET, {})["data"]:
        assert ModelInfo.model_validate(model).lifecycle == "active"
    for model in OPENAI_CHAT.render_models(FLEET, {})["data"]:
        assert OpenAIModel.model_validate(model).id == model["id"]
