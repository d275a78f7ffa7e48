"""
The figures of load.py as a picture: for each work, a bar a subject, as long as what a unit costs it in CPU beside the best peer.

Written by hand as SVG: a picture in the tree should be a text whose changes can be read.
"""
from html import escape

WIDTH, LEFT, BAR, GAP = 860, 170, 16, 5
COLOURS = {"Sallyport": "#1b7f5c", "HAProxy": "#6b8fb5", "nginx": "#9aa9b8", "sniproxy": "#c3ccd5"}
LONGEST = 3.0  # times the best peer; longer bars are cut and say so


def _bars(rows, best):
    """One work: (name, cost, text)."""
    parts, y = [], 0
    scale = (WIDTH - LEFT - 160) / LONGEST
    for name, cost, text in rows:
        times = cost / best
        length = min(times, LONGEST) * scale
        parts.append(f'<text x="{LEFT - 8}" y="{y + BAR - 4}" text-anchor="end">{escape(name)}</text>'
                     f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{COLOURS.get(name, "#888")}"/>'
                     f'<text x="{LEFT + length + 6:.1f}" y="{y + BAR - 4}">{escape(text)} ({times:.2f}×)</text>')
        y += BAR + GAP
    mark = LEFT + scale
    parts.append(f'<line x1="{mark:.1f}" y1="-4" x2="{mark:.1f}" y2="{y - GAP + 4}" stroke="#333" stroke-dasharray="3 3"/>')
    return "".join(parts), y


def draw(works, footer):
    """`works`: [(title, [(subject, cost, text)])]; Sallyport and its peers, none that failed. Returns SVG text."""
    parts, y = [], 62
    for title, rows in works:
        peers = [cost for name, cost, _ in rows if name != "Sallyport"]
        if not peers:
            continue
        bars, height = _bars(rows, min(peers))
        parts.append(f'<text x="16" y="{y}" font-weight="bold">{escape(title)}</text>'
                     f'<g transform="translate(0 {y + 10})">{bars}</g>')
        y += height + 40
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 14}" font-family="sans-serif" font-size="12">'
            f'<rect width="100%" height="100%" fill="#fff"/>'
            f'<text x="16" y="26" font-size="16" font-weight="bold">What a unit of work costs in CPU (less is better)</text>'
            f'<text x="16" y="42" fill="#555">dashed: the best peer; in brackets: times the best peer</text>'
            f'{"".join(parts)}<text x="16" y="{y}" fill="#555">{escape(footer)}</text></svg>\n')
