"""What the bodies of requests hold, as JSON Schema: bounds are those that the parsers read, and a test holds every
property to what its dialect takes and refuses.

Clients may leave out or set to null whatever is not required, and send fields that are not listed here: those are
accepted and change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.dialects.openai import speech
from gateway.dialects.openai.batches import ENDPOINTS, WINDOW
from gateway.dialects.openai.schema import MAX_TOP_LOGPROBS
from gateway.dialects.openai_chat.schema import MAX_CHOICES
from gateway.dialects.openai_completions.schema import MAX_LOGPROBS
from gateway.keys.holder import MOST_COUNTED, ROLES
from gateway.models.sampling import MAX_STOP_SEQUENCES, RANGES
from shared.request import PRIORITIES

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_NAME: Final[Schema] = {"type": "string", "minLength": 1}
_FLAG: Final[Schema] = {"type": "boolean"}
_FILE: Final[Schema] = {"type": "string", "format": "binary"}
_OBJECT: Final[Schema] = {"type": "object"}
_OBJECTS: Final[Schema] = {"type": "array", "items": {"type": "object"}}
_MODEL: Final[Schema] = {**_NAME, "description": "A model's id, an alias, or `current-model`."}


def _whole(low: int, high: int | None = None) -> Schema:
    return {"type": "integer", "minimum": low} | ({} if high is None else {"maximum": high})


def _range(name: str) -> Schema:
    low, high = RANGES[name]
    return {"type": "number", "minimum": low, "maximum": high}


_SAMPLING: Final[Schema] = {
    **{name: _range(name) for name in ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty")},
    "repetition_penalty": _range("repetition_penalty") | {"exclusiveMinimum": 0},
    "top_k": _whole(-1),
    "seed": {"type": "integer"},
    "logit_bias": {"type": "object", "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}},
}
_STOP: Final[Schema] = {
    "anyOf": [_NAME, {"type": "array", "items": _NAME, "maxItems": MAX_STOP_SEQUENCES}],
}
_STREAMED: Final[Schema] = {
    "stream": _FLAG,
    "stream_options": {"type": "object", "properties": {"include_usage": _FLAG}, "description": "With `stream` alone."},
}
_METADATA: Final[Schema] = {"type": "object", "maxProperties": 16, "additionalProperties": _TEXT}
_FORMS: Final[Schema] = {
    "response_format": {"type": "object", "required": ["type"], "properties": {"type": _TEXT}},
    "structured_outputs": _OBJECT,
    "guided_json": {"type": ["object", "string"]},
    "guided_regex": _NAME,
    "guided_choice": {"type": "array", "items": _NAME, "minItems": 1},
    "guided_grammar": _NAME,
    "grammar": _NAME,
    "json_schema": {"type": ["object", "string"]},
}
_IDS: Final[Schema] = {"type": "array", "items": _whole(0), "minItems": 1}
_INPUTS: Final[Schema] = {
    "anyOf": [
        _NAME,
        _IDS,
        {"type": "array", "items": {"anyOf": [_NAME, _IDS]}, "minItems": 1},
    ]
}


def _body(required: tuple[str, ...], properties: Schema, example: Mapping[str, Any]) -> Schema:
    return {"type": "object", "required": list(required), "properties": properties, "example": dict(example)}


_HELLO: Final = [{"role": "user", "content": "Hello"}]

BODIES: Final[Mapping[str, Schema]] = {
    "ChatCompletionsBody": _body(
        ("model", "messages"),
        {
            "model": _MODEL,
            "messages": {**_OBJECTS, "minItems": 1},
            "max_tokens": {"type": "integer", "minimum": -1, "description": "-1: no limit."},
            "max_completion_tokens": {"type": "integer", "minimum": -1, "description": "-1: no limit."},
            **_SAMPLING,
            "stop": _STOP,
            "n": _whole(1, MAX_CHOICES),
            "logprobs": _FLAG,
            "top_logprobs": _whole(0, MAX_TOP_LOGPROBS),
            **_STREAMED,
            "tools": _OBJECTS,
            "tool_choice": {"type": ["string", "object"]},
            "parallel_tool_calls": _FLAG,
            **_FORMS,
            "reasoning_effort": _TEXT,
            "metadata": _METADATA,
            "store": _FLAG,
            "service_tier": {"enum": ["auto", "default", "flex", "scale", "priority", "fast"]},
            "verbosity": {"enum": ["low", "medium", "high"]},
            "modalities": {"type": "array", "items": {"enum": ["text"]}},
            "chat_template_kwargs": _OBJECT,
            "prompt_cache_key": _TEXT,
        },
        {"model": "current-model", "messages": _HELLO, "max_tokens": 100, "temperature": 0.7},
    ),
    "CompletionsBody": _body(
        ("model", "prompt"),
        {
            "model": _MODEL,
            "prompt": _INPUTS,
            "max_tokens": {"type": "integer", "minimum": -1, "default": 16, "description": "-1: no limit."},
            **_SAMPLING,
            "stop": _STOP,
            "n": _whole(1),
            "best_of": _whole(0),
            "logprobs": {"type": ["integer", "boolean"], "minimum": 0, "maximum": MAX_LOGPROBS},
            "echo": _FLAG,
            "suffix": _TEXT,
            **_STREAMED,
            **_FORMS,
        },
        {"model": "current-model", "prompt": "def add(a, b):", "max_tokens": 20},
    ),
    "ResponsesBody": _body(
        ("model",),
        {
            "model": _MODEL,
            "input": {"type": ["string", "array"]},
            "instructions": {"type": ["string", "array"]},
            "max_output_tokens": _whole(1),
            **_SAMPLING,
            "stream": _FLAG,
            "store": {**_FLAG, "default": True},
            "background": {**_FLAG, "description": "Runs while nobody waits; it is stored, and can be streamed later."},
            "tools": _OBJECTS,
            "tool_choice": {"type": ["string", "object"]},
            "text": {"type": "object", "properties": {"format": _OBJECT}},
            "reasoning": _OBJECT,
            "include": {"type": "array", "items": _TEXT},
            "previous_response_id": _NAME,
            "conversation": {"type": ["string", "object"]},
            "prompt_cache_key": _TEXT,
        },
        {"model": "current-model", "input": "Hello", "max_output_tokens": 100},
    ),
    "MessagesBody": _body(
        ("model", "max_tokens", "messages"),
        {
            "model": _MODEL,
            "max_tokens": _whole(0),
            "messages": _OBJECTS,
            "system": {"type": ["string", "array"]},
            **_SAMPLING,
            "stop_sequences": {"type": "array", "items": _NAME, "maxItems": MAX_STOP_SEQUENCES},
            "stream": _FLAG,
            "tools": _OBJECTS,
            "tool_choice": _OBJECT,
            "thinking": {"type": "object", "required": ["type"]},
            "output_config": _OBJECT,
        },
        {"model": "current-model", "max_tokens": 100, "messages": _HELLO},
    ),
    "EmbeddingsBody": _body(
        ("model", "input"),
        {
            "model": _MODEL,
            "input": _INPUTS,
            "dimensions": _whole(1),
            "encoding_format": {"enum": ["float", "base64"]},
        },
        {"model": "all-MiniLM-L6-v2", "input": ["A cat sits on the mat.", "Stocks fell."]},
    ),
    "RerankBody": _body(
        ("model", "query", "documents"),
        {
            "model": _MODEL,
            "query": _NAME,
            "documents": {"type": "array", "items": {"type": ["string", "object"]}, "minItems": 1},
            "top_n": _whole(1),
            "return_documents": _FLAG,
        },
        {"model": "all-MiniLM-L6-v2", "query": "cats", "documents": ["A cat sits on the mat.", "Stocks fell."]},
    ),
    "SpeechBody": _body(
        ("model", "input"),
        {
            "model": _MODEL,
            "input": {**_NAME, "maxLength": speech.MAX_INPUT},
            "voice": {"type": ["string", "object"]},
            "response_format": {"enum": list(speech.FORMS)},
            "speed": {"type": "number", "minimum": speech.SPEEDS[0], "maximum": speech.SPEEDS[1]},
            "instructions": _TEXT,
            "stream_format": {"enum": ["audio", "sse"]},
        },
        {"model": "Kokoro-82M-bf16", "input": "Hello there.", "voice": "af_heart", "response_format": "wav"},
    ),
    "BatchBody": _body(
        ("input_file_id", "endpoint", "completion_window"),
        {
            "input_file_id": _NAME,
            "endpoint": {"enum": list(ENDPOINTS)},
            "completion_window": {"enum": [WINDOW]},
            "metadata": _METADATA,
        },
        {"input_file_id": "file-1", "endpoint": ENDPOINTS[0], "completion_window": WINDOW},
    ),
    "MessageBatchBody": _body(
        ("requests",),
        {
            "requests": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["custom_id", "params"],
                    "properties": {"custom_id": _NAME, "params": {"type": "object"}},
                },
            }
        },
        {"requests": [{"custom_id": "a", "params": {"model": "current-model", "max_tokens": 100, "messages": _HELLO}}]},
    ),
    "SessionBody": _body(("key",), {"key": _NAME}, {"key": "mlxgw-…"}),
    "ModelOrderBody": _body(
        ("model", "action"),
        {"model": _NAME, "action": {"enum": ["load", "unload"]}},
        {"model": "Qwen3-8B-4bit", "action": "load"},
    ),
    "PullBody": _body(
        ("model",),
        {"model": _NAME, "quantization": _TEXT, "check": {"type": "boolean"}},
        {"model": "mlx-community/Qwen3-8B-4bit", "check": True},
    ),
    "SpeedBody": _body(
        ("model",), {"model": _NAME, "check": {"type": "boolean"}}, {"model": "Qwen3-8B-4bit", "check": True}
    ),
    "HubSearchBody": _body(("search",), {"search": {**_NAME, "maxLength": 100}}, {"search": "qwen3 4bit"}),
    "DropBody": _body(
        (),
        {"session": _TEXT, "worker": _TEXT, "pieces": {"type": "array", "items": _NAME, "minItems": 1}},
        {"worker": "studio.Qwen3-8B-4bit.19c0", "pieces": ["0c" * 20]},
    ),
    "SettingsTextBody": _body((), {"text": _TEXT}, {"text": '{"tiers": {"haiku": "small"}}'}),
    "KeyBody": _body(
        ("name",),
        {
            "name": _NAME,
            "role": {"enum": list(ROLES)},
            "tenant": _TEXT,
            "models": {"type": "array", "items": _NAME},
            "ceiling": {"enum": list(PRIORITIES)},
            "requests_per_minute": _whole(0, MOST_COUNTED),
            "tokens_per_minute": _whole(0, MOST_COUNTED),
            "tokens_per_day": _whole(0, MOST_COUNTED),
            "expires": _TEXT,
        },
        {"name": "anna", "role": "user", "tokens_per_day": 2000000, "expires": "30d"},
    ),
    "ConversationBody": _body(
        (),
        {"metadata": _METADATA, "items": {**_OBJECTS, "maxItems": 20}},
        {"items": [{"type": "message", "role": "user", "content": "Hello"}], "metadata": {"topic": "tea"}},
    ),
    "MetadataBody": _body((), {"metadata": _METADATA}, {"metadata": {"run": "7"}}),
}

FORMS: Final[dict[str, dict[str, Any]]] = {
    "form": {"type": "object", "required": ["file"], "properties": {"purpose": _TEXT, "file": _FILE}},
    "sound_form": {
        "type": "object",
        "required": ["file", "model"],
        "properties": {
            "file": _FILE,
            "model": _TEXT,
            "language": _TEXT,
            "prompt": _TEXT,
            "response_format": {"enum": ["json", "text", "srt", "verbose_json", "vtt"]},
            "temperature": {"type": "number", "minimum": 0, "maximum": 1},
            "timestamp_granularities[]": {"type": "array", "items": {"enum": ["word", "segment"]}},
            "stream": _FLAG,
        },
    },
}
