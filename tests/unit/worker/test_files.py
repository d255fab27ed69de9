"""Files are read in a process of their own; over one where it is slow, greedy or lost the file is refused."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from shared.errors import UnsupportedContentError
from tests.support.processes import is_running, wait_until
from worker.files.reader import FileReader, _Helper


def png(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (9, 8, 7)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def reader() -> Iterator[FileReader]:
    made = FileReader(patience_s=10.0, memory_bytes=256 << 20)
    yield made
    made.close()


def pid_of(reader: FileReader) -> int:
    assert reader._helper is not None
    return reader._helper._process.pid


def test_the_process_is_another_and_ends_with_the_reader(reader: FileReader) -> None:
    assert np.array_equal(reader.image_pixels(png(3)), np.full((3, 3, 3), (9, 8, 7), np.uint8))
    pid = pid_of(reader)
    assert pid != os.getpid()
    reader.image_pixels(png(2))
    assert pid_of(reader) == pid
    reader.close()
    wait_until(lambda: not is_running(pid), "the helper's end")


def test_a_file_that_takes_too_long_is_refused_and_the_next_is_read(reader: FileReader) -> None:
    reader.image_pixels(png(2))
    assert reader._helper is not None
    reader._helper._socket.settimeout(0.05)
    os.kill(pid_of(reader), signal.SIGSTOP)
    with pytest.raises(UnsupportedContentError, match="it takes more than"):
        reader.pdf_text(b"%PDF-1.4")
    assert reader.image_pixels(png(2)).shape == (2, 2, 3)


def test_a_file_over_which_the_process_is_lost_is_refused_and_the_next_is_read(
    reader: FileReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.image_pixels(png(2))
    is_asked, ask = threading.Event(), _Helper.ask

    def noted(helper: _Helper, kind: int, raw: bytes) -> tuple[int, memoryview]:
        is_asked.set()
        return ask(helper, kind, raw)

    monkeypatch.setattr(_Helper, "ask", noted)
    os.kill(pid_of(reader), signal.SIGSTOP)  # it will be asked, and not answer
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(reader.image_pixels, png(2))
        assert is_asked.wait(30)  # a lock that is held says only that somebody looks whether it lives
        os.kill(pid_of(reader), signal.SIGKILL)
        with pytest.raises(UnsupportedContentError, match="was lost"):
            asked.result()
    assert reader.image_pixels(png(2)).shape == (2, 2, 3)


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="macOS does not keep the limit")
def test_a_file_that_wants_more_memory_than_it_may_have_is_refused(reader: FileReader) -> None:
    with pytest.raises(UnsupportedContentError, match="Could not process image: it cannot be decoded"):
        reader.image_pixels(png(7000))
    assert reader.image_pixels(png(2)).shape == (2, 2, 3)
