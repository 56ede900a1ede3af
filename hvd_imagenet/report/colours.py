"""The colours of the report, light and dark: told apart by colour-blind readers, too, and clear on their ground.

After Okabe and Ito, whose colours the first arms have the hues of; lightness was chosen so that any two of a theme stay
further apart than theirs do, under each of the three kinds of colour blindness. tests/test_report_colours.py has it.
"""

from __future__ import annotations

from typing import NamedTuple

LIGHT = {
    "page": "#f6f5f2",
    "card": "#ffffff",
    "ink": "#1d2126",
    "faint": "#5c636b",
    "line": "#dcdad4",
    "grid": "#ebe9e4",
}
LIGHT |= {"accent": "#0b5cad", "good": "#12684f", "bad": "#ab2412"}
DARK = {
    "page": "#0e1115",
    "card": "#161a20",
    "ink": "#e4e6e9",
    "faint": "#a0a7b0",
    "line": "#2f353d",
    "grid": "#252a32",
}
DARK |= {"accent": "#7db7ff", "good": "#5cc9a7", "bad": "#ff9580"}

ARMS_ON_LIGHT = ("#1364ce", "#e2500f", "#12a385", "#8b097b", "#573d00", "#9a80d8", "#696969", "#002d42")
ARMS_ON_DARK = ("#49a2fe", "#f27700", "#b3fde6", "#af648d", "#fdca3a", "#8264e7", "#ababab", "#29daff")
# Beside the colour, so that arms beyond the eighth differ, too: 8 colours and 7 markers meet again after 56.
PATHS = {
    "circle": "M15 2.5a4.5 4.5 0 1 0 .01 0z",
    "square": "M11 3h8v8h-8z",
    "diamond": "M15 1.5 20.5 7 15 12.5 9.5 7z",
    "triangle-up": "M15 1.5 20.5 11.5h-11z",
    "triangle-down": "M15 12.5 9.5 2.5h11z",
    "cross": "M13 2h4v3h3v4h-3v3h-4V9h-3V5h3z",
    "x": "M11 1.5 15 5l4-3.5 2 2L17.5 7l3.5 3.5-2 2L15 9l-4 3.5-2-2L12.5 7 9 3.5z",
}
MARKERS = tuple(PATHS)

BAND = "2e"  # of 255, the opacity of a band of two standard deviations, as the end of its colour


def variables(theme: dict[str, str], arms: tuple[str, ...]) -> dict[str, str]:
    """All colours of a theme by the names of their CSS variables, ``--ink`` and so on."""
    own = {f"--arm-{place}": colour for place, colour in enumerate(arms)}
    bands = {f"--band-{place}": colour + BAND for place, colour in enumerate(arms)}
    return {**{f"--{name}": colour for name, colour in theme.items()}, **own, **bands}


def colour(arm: int) -> str:
    """The name of an arm's colour, by the arm's number."""
    return f"--arm-{arm % len(ARMS_ON_LIGHT)}"


def marker(arm: int) -> str:
    """Plotly's name of an arm's marker."""
    return MARKERS[arm % len(MARKERS)]


class Sign(NamedTuple):
    """An arm's sign in legends and tables: its colour, and its marker as a path in a box of 30 by 14."""

    colour: str
    path: str


def sign(arm: int) -> Sign:
    """The sign of an arm, by the arm's number."""
    return Sign(colour(arm), PATHS[marker(arm)])
