# SPDX-License-Identifier: Apache-2.0
"""A report as one HTML file that needs nothing else: pictures inlined, no script, no request.

It reads on a phone and on paper. Every text that is given is escaped; the functions below that make
a piece of a page return HTML, and only what they return is put in as it is.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template

from matplotlib.figure import Figure
from PIL import Image

TEMPLATE = Path(__file__).with_name("report_template.html")
DOTS_PER_INCH = 200  # of a figure: sharp on a phone, and on paper


@dataclass
class Panel:
    """A figure of the report, or why there is none.

    Args:
        name: of its file, without the ending.
        title: its heading.
        caption: what is seen.
        png: the picture; `None` where there is none.
        reason: why there is none.
    """

    name: str
    title: str
    caption: str
    png: bytes | None = None
    reason: str = ""


def as_png(figure: Figure) -> bytes:
    """Returns a figure as a PNG picture, the same bytes for the same figure."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def picture(png: bytes, *, alt: str, inches: float | None = None) -> str:
    """Returns a picture that is part of the page, as wide as `inches` say where there is room."""
    data = base64.b64encode(png).decode("ascii")
    style = "" if inches is None else f' style="width:{inches:.2f}in"'
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}"{style}>'


def paragraph(text: str, *, kind: str = "") -> str:
    """Returns a paragraph; `kind` is a class of the template: `soft`, `note`."""
    return f"<p{f' class={kind!r}' if kind else ''}>{escape(text)}</p>"


def command(words: str) -> str:
    """Returns a command line."""
    return f"<pre><code>{escape(words)}</code></pre>"


def table(rows: Iterable[Sequence[object]], *, header: Sequence[str] = ()) -> str:
    """Returns a table, whose first column names the rows."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = []
    for first, *others in rows:
        cells = "".join(f"<td>{escape(str(cell))}</td>" for cell in others)
        name = escape(str(first)).replace("_", "_<wbr>")  # where a narrow screen may break it
        body.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    head = f"<thead><tr>{head}</tr></thead>\n" if header else ""
    return "<table>\n{}<tbody>\n{}\n</tbody>\n</table>".format(head, "\n".join(body))


def figure(panel: Panel) -> str:
    """Returns a figure with its caption, or why it is not shown."""
    heading = f"<h3>{escape(panel.title)}</h3>\n"
    if panel.png is None:
        return heading + paragraph(f"Not shown: {panel.reason}", kind="note")
    with Image.open(BytesIO(panel.png)) as drawn:
        inches = drawn.width / DOTS_PER_INCH  # as drawn, so that all have one size of letters
    image = picture(panel.png, alt=f"{panel.title}. {panel.caption}", inches=inches)
    return f"{heading}<figure>{image}<figcaption>{escape(panel.caption)}</figcaption></figure>"


def prediction(png: bytes, *, name: str, shares: Sequence[tuple[str, float]]) -> str:
    """Returns a photo with its classes and their probabilities, from 0 to 1."""
    rows = "".join(
        f"<tr><td>{escape(label)}</td>"
        f'<td><span class="bar" style="width:{max(1.0, 100 * share):.1f}%"></span></td>'
        f"<td>{share:.1%}</td></tr>"
        for label, share in shares
    )
    image = picture(png, alt=f"The photo {name}, as the model gets it")
    return (
        f'<figure class="photo">{image}<figcaption>{escape(name)}</figcaption>'
        f"<table><tbody>{rows}</tbody></table></figure>"
    )


def photos(pieces: Iterable[str]) -> str:
    """Returns photos beside each other, as many as there is room for."""
    return '<div class="photos">\n{}\n</div>'.format("\n".join(pieces))


def render_report(title: str, *, introduction: str, sections: dict[str, str]) -> str:
    """Returns the page.

    Args:
        title: its heading, a text.
        introduction: HTML of the functions above.
        sections: by heading, HTML of the functions above.
    """
    anchors = {name: re.sub(r"\W+", "-", name.lower()) for name in sections}
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        introduction=introduction,
        contents="\n".join(
            f'<li><a href="#{anchor}">{escape(name)}</a></li>' for name, anchor in anchors.items()
        ),
        sections="\n".join(
            f'<section id="{anchors[name]}">\n<h2>{escape(name)}</h2>\n{body}\n</section>'
            for name, body in sections.items()
        ),
    )
