"""The look of a class, the same on the map, its legend and the results."""

# Ten colors that color-blind people can tell apart (Petroff 2021, "Accessible color sequences")
COLORS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)

# Plotly's name of a marker -> its outline as an SVG path from -6 to 6; the star is kept for the query
SYMBOLS = {
    "circle": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "square": "M-4.5-4.5h9v9h-9z",
    "diamond": "M0-6 6 0 0 6-6 0z",
    "triangle-up": "M0-5 5.5 4.5h-11z",
    "cross": "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
    "x": "M-6-3-3-6 0-3 3-6 6-3 3 0 6 3 3 6 0 3-3 6-6 3-3 0z",
    "triangle-down": "M0 5-5.5-4.5h11z",
    "pentagon": "M0-5.5 5.3-1.7 3.3 4.6h-6.6L-5.3-1.7z",
    "hexagon": "M0-5.5 4.8-2.8v5.6L0 5.5-4.8 2.8v-5.6z",
    "hourglass": "M-5-5H5L-5 5H5z",
}


def color_of(label: int) -> str:
    """A class's color; there are ten, then they repeat."""
    return COLORS[label % len(COLORS)]


def symbol_of(label: int) -> str:
    """A class's marker; it changes with each round of the colors."""
    return tuple(SYMBOLS)[label // len(COLORS) % len(SYMBOLS)]


def swatch(label: int) -> str:
    """A class's marker in its color, as a small inline SVG."""
    return (
        f'<svg class="swatch" viewBox="-6 -6 12 12" aria-hidden="true">'
        f'<path d="{SYMBOLS[symbol_of(label)]}" fill="{color_of(label)}"/></svg>'
    )
