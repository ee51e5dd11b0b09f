"""One HTML page that needs nothing else: pictures inlined, no scripts, nothing loaded from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import NamedTuple

_TYPES = {".png": "image/png", ".gif": "image/gif"}

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2933; --soft: #52606d; --edge: #dfe3e8; --card: #f7f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15191e; --ink: #e6e9ed; --soft: #a3adb8; --edge: #313942; --card: #1d2329; }
  img { filter: invert(.92) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--edge); }
p { margin: .4rem 0 .9rem; color: var(--soft); max-width: 46rem; }
figure { margin: 1rem 0; }
figcaption { color: var(--soft); font-size: .875rem; margin-top: .35rem; }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .6rem; margin: 1rem 0; }
dl div { background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: .5rem .75rem; }
dt { color: var(--soft); font-size: .8rem; }
dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; margin: 1rem 0; min-width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--edge);
  font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 500; white-space: nowrap; }
pre { background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: 1rem; overflow-x: auto;
  font: .85rem/1.5 ui-monospace, monospace; }
"""


class Picture(NamedTuple):
    """A picture of the report, which also lies beside it as a file."""

    file: str  # relative to the run's folder; its ending, .png or .gif, says what the content is
    content: bytes
    caption: str  # also what is read out in place of the picture


class Section(NamedTuple):
    """A part of the page under its own heading."""

    title: str
    text: str = ""
    facts: Mapping[str, str] = {}
    pictures: tuple[Picture, ...] = ()
    source: str = ""  # shown as it is, in a fixed-width font
    table: tuple[tuple[str, ...], ...] = ()  # rows of cells, the first of them the columns' names


def render(title: str, facts: Mapping[str, str], sections: list[Section]) -> str:
    """Return the page.

    Args:
        title: its heading.
        facts: names and values under the heading.
        sections: what follows, in this order.
    """
    body = "\n".join([f"<h1>{escape(title)}</h1>", _facts(facts), *map(_section, sections)])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    parts = [f"<section>\n<h2>{escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{escape(section.text)}</p>")
    parts += [_facts(section.facts), _table(section.table), *map(_picture, section.pictures)]
    if section.source:
        parts.append(f"<pre>{escape(section.source)}</pre>")
    return "\n".join([*parts, "</section>"])


def _facts(facts: Mapping[str, str]) -> str:
    items = "\n".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    return f"<dl>\n{items}\n</dl>" if items else ""


def _table(rows: tuple[tuple[str, ...], ...]) -> str:
    if not rows:
        return ""
    kinds = ["th", *["td"] * (len(rows) - 1)]
    lines = ["".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in row) for kind, row in zip(kinds, rows, strict=True)]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide">\n<table>\n{body}\n</table>\n</div>'


def _picture(picture: Picture) -> str:
    kind = _TYPES[picture.file[picture.file.rindex(".") :]]
    content = base64.b64encode(picture.content).decode("ascii")
    caption = escape(picture.caption)
    return (
        f'<figure>\n<img src="data:{kind};base64,{content}" alt="{caption}">\n'
        f"<figcaption>{caption}</figcaption>\n</figure>"
    )
