"""What one request has said so far, and whether that is all."""

from __future__ import annotations

from typing import Any

from shared.errors import WorkerLostError
from shared.events import Event, FinishReason, TokenLogprob
from shared.request import GenerateRequest, Resume
from worker.answers.form import EndReason, call_ids
from worker.engines.tokens.output import OutputStream
from worker.prompt import Prompt, Spelling

_UNKNOWN = TokenLogprob(token="", logprob=0.0)  # of a token that another worker sampled


class Answer:
    """Generated tokens in, events out. `limit` bounds its tokens once the engine has set it; `is_bound_by_context`
    says whether the context window does, not the client."""

    def __init__(self, tokenizer: Any, request: GenerateRequest, prompt: Prompt) -> None:
        self._request = request
        self._stream = OutputStream(tokenizer, request, prompt, call_ids(request.id).__next__)
        self.tokens: list[int] = []
        self.reasoning_tokens = 0
        self.limit: int | None = None
        self.is_bound_by_context = False

    def take(self, token: int, logprob: TokenLogprob | None = None) -> list[Event]:
        """Events that this token makes certain."""
        self.tokens.append(token)
        was_reasoning = self._stream.is_reasoning
        events = self._stream.feed(token, logprob)
        if was_reasoning or self._stream.is_reasoning:
            self.reasoning_tokens += 1
        return events

    @property
    def end(self) -> EndReason | None:
        """Why no token follows the last one; None while one does."""
        if self._stream.is_over:
            return "stop"
        if self.limit is not None and len(self.tokens) >= self.limit:
            return "context_length" if self.is_bound_by_context else "length"
        return None

    @property
    def spelling(self) -> Spelling | None:
        """How it was spelt, once it has ended, for when it comes back as a message."""
        return self._stream.spelling

    def finish(self, reason: EndReason) -> tuple[list[Event], FinishReason, str]:
        """The last events, why the answer ended for its client, and the stop sequence if one matched."""
        return self._stream.finish(reason)

    def replay(self, resume: Resume) -> list[Event]:
        """Go to where an earlier attempt was: the events that its client has. Raises `WorkerLostError` where something
        of them is not in the tokens."""
        logprob = _UNKNOWN if self._request.sampling.top_logprobs is not None else None
        events = [event for token in resume.token_ids for event in self.take(token, logprob)]
        if self._stream.holds_logprobs:
            raise WorkerLostError("the answer cannot go on: logprobs of text that was held back are lost")
        return events
