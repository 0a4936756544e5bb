"""The tables of a `BornAgainHistory` for notebooks, as HTML that needs nothing from elsewhere."""

import html

from keras_ban._src.history import table

_CELL = 'style="text-align: {}; white-space: nowrap"'


def draw(history):
    """Return all columns of the tables, and the notes under them, as HTML."""
    # The classes keep notebooks from reading names with $ as formulas.
    parts = ['<div class="tex2jax_ignore mathjax_ignore" style="overflow-x: auto">']
    for each in table.tables(history):
        parts += ["<table>", f'<caption style="text-align: left">{_text(each.title)}</caption>', "<thead><tr>"]
        parts += [_cell("th", "generation", "left"), *(_cell("th", c.name, _side(c)) for c in each.columns)]
        parts += ["</tr></thead>", *_bodies(each), "</table>"]
    parts += ["<ul>", *(f"<li>{_text(note)}</li>" for note in table.notes(history)), "</ul>", "</div>"]
    return "\n".join(parts)


def _bodies(content):
    index = 0
    for labels in content.sections:
        yield "<tbody>"
        for label in labels:
            cells = [_cell("td", column.cells[index], _side(column)) for column in content.columns]
            yield f"<tr>{_cell('th', label, 'left')}{''.join(cells)}</tr>"
            index += 1
        yield "</tbody>"


def _side(column):
    return "left" if column.name == "verdict" else "right"


def _cell(tag, text, side):
    return f"<{tag} {_CELL.format(side)}>{_text(text)}</{tag}>"


def _text(text):
    """Return text that a browser shows as it is, with escapes for what no encoding has."""
    return html.escape(text.encode("utf-8", "backslashreplace").decode())
