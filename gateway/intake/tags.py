"""Tags: what a chain's links are called towards Redis and workers, and what a conversation is called.

Only who holds the deployment's secret can make them, so that a tag tells nothing of what was said, and nobody can ask
for a conversation that he does not know.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from hashlib import blake2b

from shared.request import Chain, Conversation, GenerateRequest, Link, PackedRequest
from shared.trail import TAG_BYTES, Trail


class Tagger:
    """`key` is made of the deployment's secret."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def tagged(self, request: GenerateRequest) -> GenerateRequest:
        """The request, whose model is resolved, with its trail and with the names of its conversation and user. What
        the client called them stays here."""
        if not isinstance(request, PackedRequest):
            return request
        chain = request.packed.chain
        seed = blake2b(key=self._key, digest_size=TAG_BYTES)
        for text in (request.model, request.tenant):
            seed.update(text.encode(errors="surrogatepass") + b"\0")

        def tags(links: Iterable[Link]) -> tuple[Link, ...]:
            return tuple(Link(self._of(seed, link.digest), link.text_bytes) for link in links)

        own = replace(
            chain,
            tools_first=tags(chain.tools_first),
            system_first=tags(chain.system_first),
            messages=tags(chain.messages),
        )
        conversation = Conversation(
            key=self._of(seed, *named).hex() if (named := _named(request, chain)) else "",
            user=self._of(seed, b"user", request.user.encode(errors="surrogatepass")).hex() if request.user else "",
        )
        packed = replace(request.packed, chain=own, conversation=conversation)
        return replace(request, packed=packed, trail=_trail(own).encode(), cache_key="", user="")

    @staticmethod
    def _of(seed: blake2b, *texts: bytes) -> bytes:
        tag = seed.copy()
        for text in texts:
            tag.update(text)
        return tag.digest()


def _named(request: GenerateRequest, chain: Chain) -> tuple[bytes, ...]:
    """What tells the conversation from others: session and agent; a cache key and how it began, since many
    conversations may share the key. Empty where the client says nothing."""
    if request.session:
        return (b"session", request.session.encode(errors="surrogatepass"))
    if request.cache_key and chain.first_user >= 0:
        return (b"key", request.cache_key.encode(errors="surrogatepass"), chain.messages[chain.first_user].digest)
    return ()


def _trail(chain: Chain) -> Trail:
    return Trail(
        tools_first=tuple(link.digest for link in chain.tools_first),
        system_first=tuple(link.digest for link in chain.system_first),
        messages=tuple(link.digest for link in chain.messages),
        tools_bytes=chain.tools_bytes,
        head_bytes=chain.head_bytes,
        text_bytes=chain.text_bytes,
    )
