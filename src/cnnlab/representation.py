"""How the objects of cnnlab show themselves: a few lines of text, or a small table in a notebook."""

from __future__ import annotations

import html
from collections.abc import Mapping


def as_text(title: str, facts: Mapping[str, object]) -> str:
    """The title, and a line for each fact."""
    wide = max(map(len, facts), default=0)
    return "\n".join([title, *(f"  {key:<{wide}}  {value}" for key, value in facts.items())])


def as_html(title: str, facts: Mapping[str, object]) -> str:
    """The same as a table; what a user named is escaped."""
    rows = "".join(
        f'<tr><td style="text-align:left;opacity:.65">{html.escape(key)}</td>'
        f'<td style="text-align:left">{html.escape(str(value))}</td></tr>'
        for key, value in facts.items()
    )
    return f"<div><b>{html.escape(title)}</b><table>{rows}</table></div>"
