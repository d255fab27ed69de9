"""Models behind other servers. LM Studio and Ollama are stand-ins, which say so; real servers are asked in
`tests/integration/test_upstreams.py`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared import exact
from shared.config import Settings
from shared.errors import (
    ConfigError,
    GatewayError,
    InvalidRequestError,
    ModelUnavailableError,
    OverloadedError,
    PromptTooLongError,
    WorkerLostError,
)
from shared.events import Progress, assemble
from shared.http_client import Address
from shared.messages import ImagePart, Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from shared.remotes import HOPS_HEADER, Remote, parse_remotes
from shared.request import GenerateRequest, ReasoningOptions, SamplingParams, ToolChoice, ToolDefinition
from tests.support.asked import Asked
from tests.support.mistralrs_stand_in import MistralRsStandIn
from tests.support.upstream_stand_ins import (
    BREAK,
    HANG,
    AnthropicStandIn,
    LmStudioStandIn,
    OllamaStandIn,
    OpenAiStandIn,
    StandIn,
    end_chunk,
    serving,
    text_chunk,
)
from worker.engines.remote.profiles import PROFILES, Wanted
from worker.engines.remote.source import RemoteSource
from worker.engines.remote.words import translate

SHELL = ToolDefinition(name="Bash", description="Run", parameters={"type": "object", "properties": {"c": {}}})


def message(role: Any, text: str) -> Message:
    return Message(role=role, parts=(TextPart(text=text),))


def ask(key: str = "r", *messages: Message, **more: Any) -> GenerateRequest:
    return GenerateRequest(id=key, model="far", messages=messages or (message("user", "hello"),), **more)


@contextmanager
def asked_of(stand_in: StandIn, folder: Path, **entry: Any) -> Iterator[Asked]:
    with serving(stand_in) as url:
        (folder / "remotes.json").write_text(
            json.dumps({"remotes": [{"id": "far", "url": url, "probe": False, **entry}]})
        )
        settings = Settings(state_dir=folder, config_dir=folder)
        spec = parse_remotes(json.loads((folder / "remotes.json").read_text()))[0].spec
        asked = Asked(RemoteSource(spec, settings))
        try:
            yield asked
        finally:
            stand_in.released.set()
            assert asked.engine.unload(10)


def test_a_conversation_with_tools_is_told_and_read_natively(tmp_path: Path) -> None:
    calls = [
        {"choices": [{"delta": {"reasoning": "hm"}}]},
        {
            "choices": [
                {"delta": {"tool_calls": [{"index": 0, "id": "x", "function": {"name": "Bash", "arguments": ""}}]}}
            ]
        },
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"c": '}}]}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": '"ls"}'}}]}}]},
        end_chunk("tool_calls", prompt_tokens=100, completion_tokens=9, prompt_tokens_details={"cached_tokens": 60}),
        "data: [DONE]",
    ]
    stand_in = OpenAiStandIn(calls, window=8192)
    with asked_of(stand_in, tmp_path, key="secret") as asked:
        assert (asked.info.context_tokens, asked.info.capacity) == (8192, 1)
        came = asked.answer(ask(tools=(SHELL,), tool_choice=ToolChoice(mode="any", parallel=False)))
        call = came.parts[1]
        assert isinstance(call, ToolCallPart)
        assert came.parts[0] == ReasoningPart(text="hm")
        assert (call.name, call.arguments, came.reason) == ("Bash", '{"c": "ls"}', "tool_calls")
        assert (came.usage.input_tokens, came.usage.cached_tokens, came.usage.output_tokens) == (100, 60, 9)
        result = Message(
            role="tool", parts=(ToolResultPart(call_id=call.id, parts=(TextPart(text="a"),), is_error=True),)
        )
        asked.answer(ask("second", message("user", "hello"), Message(role="assistant", parts=came.parts), result))
    first, second = stand_in.bodies("/v1/chat/completions")
    assert (first["tool_choice"], first["parallel_tool_calls"]) == ("required", False)
    assert first["tools"][0]["function"]["name"] == "Bash"
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert second["messages"][1]["tool_calls"][0]["function"] == {"name": "Bash", "arguments": '{"c": "ls"}'}
    assert second["messages"][2] == {"role": "tool", "tool_call_id": call.id, "content": "Error: a"}
    _, headers, _ = stand_in.asked[-1]
    assert (headers["authorization"], headers[HOPS_HEADER]) == ("Bearer secret", "1")


def test_a_tools_numbers_reach_the_server_as_the_client_wrote_them(tmp_path: Path) -> None:
    parameters = exact.loads('{"type": "object", "properties": {"n": {"maximum": 123456789012345678901234567890}}}')
    stand_in = OpenAiStandIn([end_chunk("stop"), "data: [DONE]"], window=8192)
    with asked_of(stand_in, tmp_path) as asked:
        asked.answer(ask(tools=(ToolDefinition(name="count", parameters=parameters),)))
    (body,) = stand_in.bodies("/v1/chat/completions")
    bounds = body["tools"][0]["function"]["parameters"]["properties"]["n"]
    assert bounds == {"maximum": 123456789012345678901234567890}


def test_what_a_person_has_unloaded_stays_so_until_it_is_asked_for(tmp_path: Path) -> None:
    stand_in = LmStudioStandIn([text_chunk("ok"), end_chunk(), "data: [DONE]"])
    with asked_of(stand_in, tmp_path, profile="lmstudio", context_tokens=8192) as asked:
        stand_in.loaded = 0
        loop = asked.engine._loop
        assert loop is not None
        asyncio.run_coroutine_threadsafe(asked.source._presence._look(), loop).result(10)
        stats = asked.source.stats()
        assert (len(stand_in.bodies("/api/v1/models/load")), stats.notes, stats.metrics["upstream_up"]) == (1, (), 1.0)
        assert asked.answer(ask()).parts == (TextPart(text="ok"),)
        assert (len(stand_in.bodies("/api/v1/models/load")), stand_in.loaded) == (2, 8192)


def test_mistral_rs_is_asked_by_its_models_name_and_in_its_words(tmp_path: Path) -> None:
    stand_in = MistralRsStandIn(status="unloaded")  # which a request to it loads
    with asked_of(stand_in, tmp_path) as asked:
        asked.answer(ask(reasoning=ReasoningOptions(enabled=False)))
        assert asked.source._profile.name == "mistralrs"
    (body,) = stand_in.bodies("/v1/chat/completions")
    assert (body["model"], body["enable_thinking"]) == ("qwen3", False)
    assert "chat_template_kwargs" not in body


def test_mistral_rs_is_not_there_while_it_loads_or_has_another_model(tmp_path: Path) -> None:
    cases = [
        (MistralRsStandIn(status="reloading"), "", "qwen3 is being loaded"),
        (MistralRsStandIn(held=tmp_path / "never"), "", "not ready yet"),
        (MistralRsStandIn(), "default", "has no model 'default'; there are: qwen3"),
    ]
    for stand_in, model, words in cases:
        with serving(stand_in) as url:
            find = PROFILES["mistralrs"].find(Address(url=url), Wanted(model=model, context_tokens=0))
            with pytest.raises(ModelUnavailableError, match=words):
                asyncio.run(find)


def test_tools_are_written_into_the_prompt_of_a_server_that_takes_none(tmp_path: Path) -> None:
    said = ["ok\n<tool_", 'call>{"name": "Bash", "argu', 'ments": {"c": "ls"}}</tool_call>']
    stand_in = OpenAiStandIn([*map(text_chunk, said), end_chunk(), "data: [DONE]"])
    with asked_of(stand_in, tmp_path, tools="prompt") as asked:
        came = asked.answer(ask(tools=(SHELL,)))
        assert came.parts[0] == TextPart(text="ok")
        assert isinstance(came.parts[1], ToolCallPart)
        assert (came.parts[1].name, json.loads(came.parts[1].arguments)) == ("Bash", {"c": "ls"})
        result = Message(role="tool", parts=(ToolResultPart(call_id=came.parts[1].id, parts=(TextPart(text="a"),)),))
        asked.answer(
            ask("2", message("user", "hello"), Message(role="assistant", parts=came.parts), result, tools=(SHELL,))
        )
    first, second = stand_in.bodies("/v1/chat/completions")
    assert "tools" not in first
    assert '"Bash"' in first["messages"][0]["content"]
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert "<tool_call>" in second["messages"][2]["content"]
    assert second["messages"][3] == {"role": "user", "content": "<tool_response>\na\n</tool_response>"}


def test_reasoning_in_text_stop_sequences_and_progress(tmp_path: Path) -> None:
    chunks = [
        ": keepalive 10/40",
        text_chunk("<think>why</thi"),
        text_chunk("nk>\n\none two"),
        text_chunk(" three"),
        HANG,
    ]
    with asked_of(OpenAiStandIn(chunks), tmp_path) as asked:
        came = asked.answer(ask(sampling=SamplingParams(stop=(" thr",))))
        assert came.parts == (ReasoningPart(text="why"), TextPart(text="one two"))
        assert (came.reason, came.stop_sequence) == ("stop_sequence", " thr")
        assert asked.events["r"][0] == Progress(phase="prefill", done_tokens=10, total_tokens=40)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            400,
            {"error": {"message": "This model's maximum context length is 4096 tokens, 9000 given"}},
            PromptTooLongError,
        ),
        (400, {"error": "Trying to keep the first 5000 tokens when context overflows"}, PromptTooLongError),
        (500, {"error": {"message": "Context size has been exceeded."}}, PromptTooLongError),
        (404, {"error": "model 'x' not found, try pulling it"}, ModelUnavailableError),
        (400, {"error": {"message": "No models loaded"}}, ModelUnavailableError),
        (503, {"error": "server busy, please try again"}, OverloadedError),
        (429, {"detail": "slow down"}, OverloadedError),
        (401, {"error": {"message": "bad key"}}, ModelUnavailableError),
        (422, {"detail": "wrong"}, InvalidRequestError),
    ],
)
def test_errors_are_told_by_their_meaning(status: int, body: Any, expected: type[GatewayError], tmp_path: Path) -> None:
    error = translate("far", status, body, "7")
    assert type(error) is expected
    if expected is OverloadedError:
        assert error.retry_after_s == 7
    if status == 400 and "9000" in str(body):
        assert error.details == {"prompt_tokens": 9000, "context_tokens": 4096}


def test_an_error_before_and_within_a_stream_reaches_the_client(tmp_path: Path) -> None:
    stand_in = OpenAiStandIn((503, {"error": "server busy"}))
    with asked_of(stand_in, tmp_path) as asked:
        with pytest.raises(OverloadedError, match="far: server busy"):
            asked.answer(ask("busy"))
        stand_in.chunks = [text_chunk("so"), {"error": {"message": "context size exceeded"}}]
        with pytest.raises(PromptTooLongError):
            asked.answer(ask("inside"))


def test_a_stream_that_breaks_is_asked_again_only_before_it_said_anything(tmp_path: Path) -> None:
    stand_in = OpenAiStandIn([BREAK])
    with asked_of(stand_in, tmp_path) as asked:
        with pytest.raises(WorkerLostError):
            asked.answer(ask("nothing"))
        stand_in.chunks = [text_chunk("so"), BREAK]
        before = len(stand_in.bodies("/v1/chat/completions"))
        with pytest.raises(WorkerLostError, match="without saying why"):
            asked.answer(ask("broken"))
        assert len(stand_in.bodies("/v1/chat/completions")) == before + 1


def test_a_server_that_hangs_is_given_up(tmp_path: Path) -> None:
    with asked_of(OpenAiStandIn([text_chunk("so"), HANG]), tmp_path, silence_s=0.2) as asked:
        with pytest.raises(WorkerLostError, match="silent"):
            asked.answer(ask())


def test_usage_that_cannot_be_is_unknown(tmp_path: Path) -> None:
    chunks = [text_chunk("so"), end_chunk("stop", prompt_tokens=0, completion_tokens=0), "data: [DONE]"]
    with asked_of(OpenAiStandIn(chunks), tmp_path) as asked:
        usage = asked.answer(ask()).usage
        assert (usage.input_tokens, usage.output_tokens) == (None, None)


def test_prompts_that_are_surely_too_long_are_not_sent_and_nothing_said_to_a_full_one_means_too_long(
    tmp_path: Path,
) -> None:
    stand_in = OpenAiStandIn([end_chunk(), "data: [DONE]"], window=1000)
    with asked_of(stand_in, tmp_path) as asked:
        with pytest.raises(PromptTooLongError, match="> 1000 maximum"):
            asked.answer(ask("long", message("user", "word " * 4000)))
        assert not stand_in.bodies("/v1/chat/completions")
        with pytest.raises(PromptTooLongError, match="with nothing"):
            asked.answer(ask("full", message("user", "word " * 750)))
        assert asked.answer(ask("short")).parts == ()


def test_requests_that_go_round_are_refused(tmp_path: Path) -> None:
    with asked_of(OpenAiStandIn(), tmp_path) as asked, pytest.raises(InvalidRequestError, match="leads back"):
        asked.answer(ask(hops=3))


def test_the_lm_studio_stand_in_is_asked_for_the_loaded_window_and_loaded_explicitly(tmp_path: Path) -> None:
    stand_in = LmStudioStandIn([text_chunk("so"), end_chunk(), "data: [DONE]"])
    with asked_of(stand_in, tmp_path, context_tokens=16384) as asked:
        assert asked.info.context_tokens == 16384
        assert asked.source._profile.name == "lmstudio"  # type: ignore[attr-defined]
    assert stand_in.bodies("/api/v1/models/load") == [
        {"model": "qwen", "echo_load_config": True, "context_length": 16384}
    ]
    loaded = LmStudioStandIn(loaded=4096)
    with asked_of(loaded, tmp_path, profile="lmstudio") as asked:
        assert asked.info.context_tokens == 4096  # and not the 131,072 that the model was trained for
    assert not loaded.bodies("/api/v1/models/load")


def test_the_ollama_stand_in_is_asked_with_the_same_window_always(tmp_path: Path) -> None:
    lines = [
        {"message": {"thinking": "hm"}, "done": False},
        {"message": {"content": "", "tool_calls": [{"function": {"name": "Bash", "arguments": {"c": "ls"}}}]}},
        {"message": {"content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 7},
    ]
    stand_in = OllamaStandIn(lines)
    with asked_of(stand_in, tmp_path) as asked:
        assert asked.info.context_tokens == 32768
        for key in ("a", "b"):
            came = asked.answer(ask(key, tools=(SHELL,), sampling=SamplingParams(temperature=0.5, max_tokens=9)))
            assert came.parts[0] == ReasoningPart(text="hm")
            assert isinstance(came.parts[1], ToolCallPart)
            assert json.loads(came.parts[1].arguments) == {"c": "ls"}
            assert (came.usage.input_tokens, came.usage.output_tokens) == (None, 7)
        stand_in.lines = [{"message": {"content": "so"}}, {"error": "the input length exceeds the context length"}]
        with pytest.raises(PromptTooLongError):
            asked.answer(ask("long"))
    body = stand_in.bodies("/api/chat")[0]
    assert (body["model"], body["truncate"], body["shift"]) == ("qwen:latest", False, False)  # not the cloud's
    assert body["options"] == {"num_ctx": 32768, "temperature": 0.5, "num_predict": 9}
    assert stand_in.loads == 1


def test_the_anthropic_stand_in_is_asked_with_its_marks_of_the_cache_and_its_key(tmp_path: Path) -> None:
    usage = {"input_tokens": 5, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 5}
    block = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {}}
    events = [
        {"type": "message_start", "message": {"usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "so"}},
        {"type": "ping"},
        {"type": "content_block_start", "index": 1, "content_block": block},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"c": "l'}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": 's"}'}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 12}},
        {"type": "message_stop"},
    ]
    stand_in = AnthropicStandIn(events)
    with asked_of(stand_in, tmp_path, profile="anthropic", key="sk-secret") as asked:
        came = asked.answer(ask("a", message("system", "be brief"), message("user", "hello"), tools=(SHELL,)))
        assert came.parts[0] == TextPart(text="so")
        call = came.parts[1]
        assert isinstance(call, ToolCallPart)
        assert (json.loads(call.arguments), came.reason) == ({"c": "ls"}, "tool_calls")
        assert (came.usage.input_tokens, came.usage.cached_tokens, came.usage.output_tokens) == (100, 90, 12)
        result = Message(role="tool", parts=(ToolResultPart(call_id=call.id, parts=(TextPart(text="a"),)),))
        turn = (message("user", "hello"), Message(role="assistant", parts=came.parts), result, message("user", "and?"))
        asked.answer(ask("b", *turn, tools=(SHELL,)))
        stand_in.events = (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
        with pytest.raises(OverloadedError):
            asked.answer(ask("busy"))
        stand_in.events = (400, {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}})
        with pytest.raises(PromptTooLongError, match="210000 tokens > 200000 maximum"):
            asked.answer(ask("long"))
    first, second = stand_in.bodies("/v1/messages")[:2]
    mark = {"type": "ephemeral"}
    assert first["system"] == [{"type": "text", "text": "be brief", "cache_control": mark}]
    assert (first["tools"][0]["cache_control"], first["tool_choice"]) == (mark, {"type": "auto"})
    assert first["messages"][-1]["content"][-1] == {"type": "text", "text": "hello", "cache_control": mark}
    assert [each["role"] for each in second["messages"]] == ["user", "assistant", "user"]
    assert [block["type"] for block in second["messages"][2]["content"]] == ["tool_result", "text"]
    _, headers, _ = stand_in.asked[-1]
    assert (headers["x-api-key"], headers["anthropic-version"]) == ("sk-secret", "2023-06-01")
    assert "authorization" not in headers


def test_images_are_sent_where_the_model_reads_them_and_refused_where_not(tmp_path: Path) -> None:
    picture = Message(role="user", parts=(TextPart(text="see"), ImagePart(media_type="image/png", data="AAAA")))
    stand_in = OpenAiStandIn([text_chunk("so"), end_chunk(), "data: [DONE]"])
    with asked_of(stand_in, tmp_path, images=True) as asked:
        asked.answer(ask("seen", picture))
    (body,) = stand_in.bodies("/v1/chat/completions")
    assert body["messages"][0]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,AAAA"},
    }
    with asked_of(stand_in, tmp_path) as asked, pytest.raises(InvalidRequestError, match="does not read images"):
        asked.answer(ask("unseen", picture))


def test_an_answer_of_a_server_that_was_found_again_is_that_of_its_request(tmp_path: Path) -> None:
    """A worker names requests to its engine otherwise than clients do."""
    stand_in = OpenAiStandIn([BREAK])
    with asked_of(stand_in, tmp_path) as asked:
        with pytest.raises(WorkerLostError):
            asked.answer(ask("nothing"))
        stand_in.chunks = [text_chunk("so"), end_chunk(), "data: [DONE]"]
        asked.begin("named")
        asked.engine.submit(replace(asked.engine.prepare(ask("request")), key="named"))
        assert asked.wait_end("named").parts == (TextPart(text="so"),)


def test_a_server_that_comes_later_is_found_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engines.remote.source._WAIT_S", 0.05)
    entry = {"id": "far", "url": "http://127.0.0.1:9", "profile": "openai"}
    (tmp_path / "remotes.json").write_text(json.dumps([entry]))
    asked = Asked(RemoteSource(Remote(**entry).spec, Settings(state_dir=tmp_path, config_dir=tmp_path)))
    with serving(OpenAiStandIn([text_chunk("so"), end_chunk(), "data: [DONE]"])) as url:
        with pytest.raises(ModelUnavailableError, match="nobody answers"):
            asked.answer(ask("away"))
        asked.source._address = replace(asked.source._address, url=url)  # type: ignore[attr-defined]
        assert asked.answer(ask("there")).parts == (TextPart(text="so"),)
    assert asked.engine.unload(10)


@pytest.mark.parametrize(
    "entry",
    [
        {"url": "http://x"},
        {"id": "a", "url": "ftp://x"},
        {"id": "a", "url": "http://x\nHost: y"},
        {"id": "a", "url": "http://x y"},
        {"id": "a", "url": "http://x", "profile": "lm-studio"},
        {"id": "a", "url": "http://x", "slots": True},
        {"id": "a", "url": "http://x", "slot": 1},
        "x",
    ],
)
def test_entries_that_cannot_be_meant_are_refused(entry: Any) -> None:
    with pytest.raises(ConfigError, match=r"remotes\.json: entry 0"):
        parse_remotes({"remotes": [entry]})


def test_a_key_is_in_nothing_that_leaves_the_worker() -> None:
    remote = Remote(id="a", url="http://user:pw@x/v1", key="secret")
    assert "secret" not in repr(remote.spec)
    assert "pw" not in repr(remote.spec)
    assert replace(remote, key="other").spec != remote.spec  # its worker starts anew


def test_assembled_events_are_legal(tmp_path: Path) -> None:
    """Text between two calls, and a call in text behind one that the server has read."""
    chunks = [
        text_chunk("a"),
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "Bash", "arguments": "{}"}}]}}]},
        text_chunk('b <tool_call>{"name": "Bash", "arguments": {"c": 1}}</tool_call>'),
        {"choices": [{"delta": {"tool_calls": [{"index": 1, "function": {"name": "Bash"}}]}}]},
        end_chunk("tool_calls"),
    ]
    with asked_of(OpenAiStandIn(chunks), tmp_path) as asked:
        asked.answer(ask(tools=(SHELL,)))
        calls = [part for part in assemble(asked.events["r"]).parts if isinstance(part, ToolCallPart)]
        assert len({call.id for call in calls}) == len(calls) == 3
