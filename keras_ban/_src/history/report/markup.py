"""Pieces of HTML."""

import dataclasses

from keras_ban._src.history.html_tables import escaped

# A table of more columns is wider than the screen of a phone.
NARROW = 3


@dataclasses.dataclass
class Html:
    """HTML that is shown as it is. All other texts are escaped."""

    text: str


def element(tag, content, **attributes):
    """Return an element. `content` is text or `Html`. `class_` is the attribute `class`."""
    named = "".join(f' {name.rstrip("_")}="{escaped(value)}"' for name, value in attributes.items() if value)
    return f"<{tag}{named}>{_inside(content)}</{tag}>"


def paragraph(text):
    return element("p", text)


def note(text):
    """Return a paragraph in small letters."""
    return element("p", text, class_="note")


def _inside(content):
    return content.text if isinstance(content, Html) else escaped(content)


def table(head, rows, caption=None, texts=(0,)):
    """Return a table, with a hint on narrow screens if it is wide. `texts` are the columns that hold no numbers."""
    kinds = ["name" if place in texts else "number" for place in range(len(head))]
    cells = "".join(element("th", name, class_=kind) for name, kind in zip(head, kinds, strict=True))
    lines = [f"<thead><tr>{cells}</tr></thead><tbody>"]
    for row in rows:
        tags = ["th", *["td"] * (len(row) - 1)]
        cells = [element(tag, cell, class_=kind) for tag, cell, kind in zip(tags, row, kinds, strict=True)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines.append("</tbody>")
    return wide(element("table", Html("\n".join(lines)), class_="text"), len(head) > NARROW, caption)


def wide(content, hints, caption=None):
    """Return a block that scrolls sideways if it is wider than the page. With `hints`, narrow screens show a hint."""
    # Not within the table, with which it would be cut off.
    heading = element("h3", caption) if caption else ""
    hint = '<p class="hint">Swipe the table sideways for all columns.</p>' if hints else ""
    # With a tabindex, a keyboard can scroll it.
    return f'{heading}{hint}<div class="wide" tabindex="0">{content}</div>'


def figure(picture, caption):
    return f"<figure>{picture}{element('figcaption', caption)}</figure>"


def folded(heading, content):
    """Return a block that opens when its heading is chosen."""
    return f"<details>{element('summary', heading)}{content}</details>"
