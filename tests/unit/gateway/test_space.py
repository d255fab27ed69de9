"""How much of Redis's memory waiting requests may take."""

from __future__ import annotations

import pytest

from gateway.dispatch.space import Memory, check_room
from shared.errors import OverloadedError, RequestTooLargeError

MB = 1024 * 1024


@pytest.mark.parametrize(
    ("used", "coming", "body", "fits"), [(0, 0, 75, True), (70, 0, 5, True), (70, 0, 6, False), (40, 30, 6, False)]
)
def test_bodies_take_three_quarters_of_the_memory_at_most(used: int, coming: int, body: int, fits: bool) -> None:
    memory = Memory(used_bytes=used * MB, max_bytes=100 * MB)
    if fits:
        check_room(memory, coming_bytes=coming * MB, body_bytes=body * MB)
        return
    with pytest.raises(OverloadedError, match=r"take 70.0 of the 75.0 MB .* one of 6.0 MB has no room now") as caught:
        check_room(memory, coming_bytes=coming * MB, body_bytes=body * MB)
    assert caught.value.details["reason"] == "bytes_full"
    assert caught.value.retry_after_s == 5


def test_what_cannot_fit_alone_is_no_matter_of_waiting() -> None:
    with pytest.raises(RequestTooLargeError, match=r"76\.0 MB, more than the 75\.0 MB"):
        check_room(Memory(max_bytes=100 * MB), coming_bytes=0, body_bytes=76 * MB)


def test_a_redis_without_a_limit_has_room_for_all() -> None:
    check_room(Memory(used_bytes=1 << 50), coming_bytes=0, body_bytes=1 << 40)
