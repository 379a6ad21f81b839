"""Draw the way of the data, the figure of README and docs: ``python -m tools.figure``.

Writes ``docs/figures/pipeline-light.svg`` and ``pipeline-dark.svg``.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "figures"
WIDTH, BOX, HEIGHT, GAP = 520, 168, 60, 22
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
COLOURS = {
    "light": {"ink": "#1f2328", "soft": "#57606a", "box": "#f6f8fa", "edge": "#8c959f",
              "A": "#0969da", "B": "#bc4c00"},
    "dark": {"ink": "#f0f6fc", "soft": "#a9b4c0", "box": "#161b22", "edge": "#6e7681",
             "A": "#58a6ff", "B": "#f0883e"},
}  # fmt: skip
# name, its dots (A, B: items of the domains, lower case: inserted ones), what is done, and how
STEPS = (
    ("raw files", "AABAB", "CSV, JSON lines, Parquet, frames,", "or Amazon's public files"),
    ("import, prepare", "AAABB", "atomic files: rows in order, two", "domains, text vectors"),
    ("augment", "AbAABaB", "propose items (4), filter (5, 6),", "insert (1); profile users (3.4)"),
    ("pre-train", "A-b-A-A-B-a-B", "one backbone on mixed sequences",
     "(7-9), near the profiles (13, 14)"),
    ("fine-tune", "AAAa  bBB", "backbone frozen, an adapter for",
     "each domain's items (10, 12, 15)"),
    ("recommend", "A?  B?", "score of an item v of domain A:", "(u + uᴬ) · v (11)"),
)  # fmt: skip


def dots(marks: str, middle: float, y: float, colour: dict[str, str]) -> Iterator[str]:
    """Items of a sequence as circles, inserted ones open, ``-`` as a line between two."""
    step = 10 if "-" in marks else 15
    x = middle - step * (len(marks) - 1) / 2
    for mark in marks:
        ink = colour.get(mark.upper(), colour["soft"])
        if mark == "-":
            yield f'<path d="M{x - 5:g} {y:g}h10" stroke="{colour["edge"]}" stroke-width="1.5"/>'
        elif mark == "?":
            yield (f'<circle cx="{x:g}" cy="{y:g}" r="5" fill="none" stroke="{colour["soft"]}" '
                   'stroke-width="1.5" stroke-dasharray="2 2"/>')  # fmt: skip
        elif mark != " ":
            fill = ink if mark.isupper() else "none"
            yield (f'<circle cx="{x:g}" cy="{y:g}" r="5" fill="{fill}" stroke="{ink}" '
                   'stroke-width="2"/>')  # fmt: skip
        x += step


def draw(colour: dict[str, str]) -> str:
    """SVG of all steps, one below the other."""
    height = len(STEPS) * (HEIGHT + GAP) - GAP + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="{FONT}" font-size="16">',
        "<title>From raw files to recommendations, with the paper's equations</title>",
    ]
    for place, (name, marks, *lines) in enumerate(STEPS):
        y = 10 + place * (HEIGHT + GAP)
        middle = 10 + BOX / 2
        parts += [
            f'<rect x="10" y="{y}" width="{BOX}" height="{HEIGHT}" rx="8" fill="{colour["box"]}" '
            f'stroke="{colour["edge"]}"/>',
            f'<text x="{middle:g}" y="{y + 25}" text-anchor="middle" font-weight="600" '
            f'fill="{colour["ink"]}">{escape(name)}</text>',
            *dots(marks, middle, y + 43, colour),
            *(
                f'<text x="{BOX + 26}" y="{y + 26 + 21 * n}" fill="{colour["ink"]}">'
                f"{escape(line)}</text>"
                for n, line in enumerate(lines)
            ),
        ]
        if place:
            parts.append(
                f'<path d="M{middle:g} {y - GAP + 1}v{GAP - 4}m-5 -6l5 6l5 -6" fill="none" '
                f'stroke="{colour["edge"]}" stroke-width="1.5"/>'
            )
    y = height - 14
    legend = ((20, "A", "item of domain A"), (180, "B", "of domain B"), (305, "ab", "inserted"))
    for x, marks, words in legend:
        parts += dots(marks, x + 5 * len(marks) - 5, y - 5, colour)
        start = x + 15 * len(marks)
        parts.append(
            f'<text x="{start}" y="{y}" font-size="14" fill="{colour["soft"]}">{words}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Write both figures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, colour in COLOURS.items():
        (FOLDER / f"pipeline-{name}.svg").write_text(draw(colour), encoding="utf-8")


if __name__ == "__main__":
    main()
