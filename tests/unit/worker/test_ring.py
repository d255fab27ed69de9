"""What a worker keeps of what it has sent lately."""

from __future__ import annotations

from worker.serving.ring import Ring


def test_what_was_sent_lately_is_kept_in_order_and_goes_with_time() -> None:
    ring: Ring[int] = Ring(kept_s=10)
    for number in range(5):
        ring.add(number, 1, now_s=float(number))
    assert ring.recent(4.0) == [0, 1, 2, 3, 4]
    assert ring.recent(12.5) == [3, 4]
    assert ring.recent(100.0) == []
    assert ring.size_bytes == 0


def test_the_oldest_go_where_there_is_no_room() -> None:
    ring: Ring[str] = Ring(kept_bytes=10)
    for name, size in (("a", 4), ("b", 4), ("c", 4), ("d", 20), ("e", 6)):
        ring.add(name, size, now_s=0.0)
        assert ring.size_bytes <= 10
    assert ring.recent(0.0) == ["e"]
