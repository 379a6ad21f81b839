"""Prices as people and models write them."""

from __future__ import annotations

import re

_NUMBER = r"(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?:[.\s]\d{3})+,\d{1,2}|\d+,\d{1,2}|\d+(?:\.\d+)?)"
_PRICE = re.compile(  # with a word or a sign before, and a sign, a word or a range behind
    rf"(?:[a-z]{{2,4}}\b\.?)?\s*[^\w\s.-]?\s*{_NUMBER}\s*"
    r"(?:[^\w\s]|(?:[^\W\d_]{2,3}|dollars?|euros?)\b)?(?:\s*(?:[-–—]|to\b).*)?",
    re.DOTALL | re.IGNORECASE,
)


def read_price(value: object) -> float | None:
    """Read a price: 7, "$12.99", "from 1.299,50 EUR", "$10 - $20" (the lower); else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str):
        found = _PRICE.fullmatch(value.strip())
        number = found[1] if found else "0"
        if re.search(r",\d{1,2}$", number):  # a decimal comma
            number = re.sub(r"[.\s]", "", number).replace(",", ".")
        value = float(number.replace(",", ""))
    return float(value) if 0 < value < 1e7 else None
