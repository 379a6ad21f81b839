"""What the site shows otherwise than its plugins do.

Sphinx's roles in docstrings become plain code, and links of the notebook lead to pages.
"""

from __future__ import annotations

import logging
import re
from typing import Any

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>(~?)([^<]*)</code>")
_PAGE = re.compile(r'href="([\w/]+\.md)(#[^"]*)?"')
_log = logging.getLogger("mkdocs.hooks")


def on_page_content(html: str, page: Any, files: Any, **_: Any) -> str:
    """Show ``:class:`~module.Name` `` as Sphinx does; lead ``page.md`` to the page."""

    def name(found: re.Match[str]) -> str:
        shown = found[2].rpartition(".")[2] if found[1] else found[2]
        return f"<code>{shown}</code>"

    def link(found: re.Match[str]) -> str:
        target = files.get_file_from_path(found[1])
        if target is None:
            _log.warning("%s links to %s, which is no page", page.file.src_uri, found[1])
            return found[0]
        return f'href="{target.url_relative_to(page.file)}{found[2] or ""}"'

    html = _ROLE.sub(name, html)
    return _PAGE.sub(link, html) if page.file.src_uri.endswith(".ipynb") else html
