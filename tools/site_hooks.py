"""What the site shows otherwise than mkdocstrings does: Sphinx's roles become plain code."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>(~?)([^<]*)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Turn ``:class:`~module.Name` `` into the name alone, as Sphinx does."""

    def name(found: re.Match[str]) -> str:
        shown = found[2].rpartition(".")[2] if found[1] else found[2]
        return f"<code>{shown}</code>"

    return _ROLE.sub(name, html)
