"""The tables of a `BornAgainHistory` for notebooks and reports, as HTML that needs nothing from elsewhere."""

import html

from keras_ban._src.history import table

_CELL = 'style="text-align: {}; white-space: nowrap"'


def draw(history):
    """Return all columns of the tables, and the notes under them, as HTML."""
    # The classes keep notebooks from reading names with $ as formulas.
    parts = ['<div class="tex2jax_ignore mathjax_ignore" style="overflow-x: auto">']
    for each in table.tables(history):
        parts += lines_of(each, f'<caption style="text-align: left">{escaped(each.title)}</caption>')
    parts += [list_of(table.notes(history)), "</div>"]
    return "\n".join(parts)


def lines_of(content, caption=""):
    """Return the lines of a `Table`."""
    head = [_cell("th", content.rows, "left"), *(_cell("th", c.name, _side(c)) for c in content.columns)]
    return ["<table>", caption, "<thead><tr>", *head, "</tr></thead>", *_bodies(content), "</table>"]


def list_of(sentences):
    return "\n".join(["<ul>", *(f"<li>{escaped(each)}</li>" for each in sentences), "</ul>"])


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
    return f"<{tag} {_CELL.format(side)}>{escaped(text)}</{tag}>"


def escaped(text):
    """Return text that a browser shows as it is, with escapes for what no encoding has."""
    return html.escape(str(text).encode("utf-8", "backslashreplace").decode())
