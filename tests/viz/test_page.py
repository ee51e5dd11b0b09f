"""The page: valid, self-contained, and deaf to what is written into it."""

import base64
from html.parser import HTMLParser

from mbrl.viz.report import Picture, Section, render

VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Collects tags, sources and text, and checks that every tag is closed in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.sources, self.text = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in {"src", "href"}]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.text.append(data.strip())


EVIL = '<script>alert("1")</script> & "quotes" \'too\''


def page():
    pictures = (Picture("a.png", b"\x89PNG...", EVIL), Picture("videos/b.gif", b"GIF89a...", "a film"))
    section = Section(EVIL, EVIL, {EVIL: EVIL}, pictures, EVIL, ((EVIL, "b"), ("1", EVIL)))
    return render(EVIL, {"Return": "5 ± 1", EVIL: EVIL}, [section, Section("empty")])


def test_what_is_written_into_it_stays_text():
    read = Reader(page())
    assert "script" not in read.tags
    assert read.text.count(EVIL) == 12
    assert {"Return", "5 ± 1", "empty"} <= set(read.text)


def test_a_table_has_its_columns_names_first():
    tags = [tag for tag in Reader(page()).tags if tag in {"table", "tr", "th", "td"}]
    assert tags == ["table", "tr", "th", "th", "tr", "td", "td"]


def test_it_loads_nothing_from_anywhere():
    content = page()
    read = Reader(content)
    assert "http" not in content
    assert "@import" not in content
    assert "url(" not in content
    assert "link" not in read.tags
    kinds, pictures = zip(*(source.split(",") for source in read.sources), strict=True)
    assert kinds == ("data:image/png;base64", "data:image/gif;base64")
    assert [base64.b64decode(p) for p in pictures] == [b"\x89PNG...", b"GIF89a..."]


def test_it_says_its_language_and_encoding_and_suits_light_and_dark():
    content = page()
    assert content.startswith("<!DOCTYPE html>\n<html lang=\"en\">")
    assert '<meta charset="utf-8">' in content
    assert "prefers-color-scheme: dark" in content
