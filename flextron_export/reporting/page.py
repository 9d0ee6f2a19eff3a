"""HTML of one self-contained page: no script, nothing that is loaded from elsewhere, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; margin: 2rem auto; max-width: 66rem;
       padding: 0 1rem; }
h1 { margin-bottom: .2rem; } h2 { margin-top: 2.4rem; border-bottom: 1px solid #d5dae0; padding-bottom: .2rem; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; vertical-align: top; border-bottom: 1px solid #e8ebef; }
th { border-bottom: 1px solid #9aa4af; }
th:first-child, td:first-child, table.text td, table.text th { text-align: left; }
figure { margin: 1rem 0; overflow-x: auto; } figure svg { max-width: 100%; height: auto; }
figcaption, .quiet { color: #57606a; }
.note { border-left: 4px solid #d4a72c; padding: .3rem .8rem; background: #fff8e5; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """The document around HTML parts that `heading`, `paragraph`, `table` and `figure` made."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n{chr(10).join(parts)}\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """`kind` is `note` for what must not be overlooked, `quiet` for an aside."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, text: bool = False) -> str:
    """A table; `text` aligns all columns to the left, not the first alone. None is a dash."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{'–' if cell is None else escape(str(cell))}</td>" for cell in row) + "</tr>\n"
        for row in rows
    )
    return f'<table class="{"text" if text else "numbers"}">\n<tr>{head}</tr>\n{body}</table>'


def figure(svg: str, caption: str) -> str:
    """An SVG element with a caption, which is also what a screen reader says of it."""
    described = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" ', 1)
    return f"<figure>\n{described}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"
