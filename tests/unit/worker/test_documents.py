"""Documents become text, or an error that the client acts on."""

import base64

import pytest

from shared.errors import UnsupportedContentError
from worker.prompt.documents import KeptTexts, document_text


def pdf(*pages: str) -> bytes:
    """A small valid PDF with one line of text on each page; an empty string makes a page without text."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    for text in pages:
        stream = f"BT /F1 12 Tf 10 10 Td ({text}) Tj ET" if text else ""
        number = len(objects) + 1
        kids.append(f"{number} 0 R")
        font = "<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R /Resources {font} /Contents {number + 1} 0 R >>")
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} /MediaBox [0 0 200 200] >>"
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    start = out.index(b"xref\n")
    return out + f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF".encode()


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def test_a_pdf_that_holds_text_is_shown_page_by_page():
    text = document_text("application/pdf", encoded(pdf("first words", "second words")), "report.pdf")
    assert text == "report.pdf\n[page 1]\nfirst words\n\n[page 2]\nsecond words"


def test_a_pdf_without_text_is_refused_in_the_words_that_the_client_knows():
    with pytest.raises(UnsupportedContentError, match="does not support PDF input"):
        document_text("application/pdf", encoded(pdf("", "")), "")


@pytest.mark.parametrize("raw", [b"", b"not a pdf", pdf("text")[:80], b"%PDF-1.4\n\x00\xff garbage"])
def test_a_broken_pdf_is_refused_in_the_same_words(raw):
    with pytest.raises(UnsupportedContentError, match="does not support PDF input"):
        document_text("application/pdf", encoded(raw), "")


def test_texts_are_kept_within_a_budget_the_longest_unused_going_first():
    read = []
    texts = KeptTexts(lambda raw: read.append(raw) or raw.decode() * 10, budget_characters=60)
    for raw in (b"aa", b"bb", b"aa", b"cc", b"dd", b"aa"):
        assert texts.of(raw) == raw.decode() * 10
    assert read == [b"aa", b"bb", b"cc", b"dd"]
    texts.of(b"bb")
    assert read[4:] == [b"bb"]


def test_a_text_over_the_budget_is_given_and_not_kept():
    texts = KeptTexts(lambda raw: raw.decode(), budget_characters=3)
    assert texts.of(b"long text") == "long text"
    assert not texts._texts


def test_plain_text_stays_as_it_is():
    assert document_text("text/plain", encoded("héllo".encode()), "") == "héllo"


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        ("text/plain", "***"),
        ("application/pdf", "é"),
        ("text/plain", encoded(b"\xff\xfe")),
        ("application/zip", encoded(b"PK")),
    ],
)
def test_what_is_no_text_is_refused(media_type, data):
    with pytest.raises(UnsupportedContentError):
        document_text(media_type, data, "")
