"""The tables of a `BornAgainHistory` as text, with rich."""

import io
import textwrap

from keras_ban._src import checks
from keras_ban._src.history import table

WIDTH, LEAST_WIDTH = 80, 40
# Between two columns.
_GAP = 2


def draw(history, width=None):
    """Return the tables and the notes under them, as text of at most `width` columns (`None`: 80).

    Needed columns that do not fit continue in a table below. Others are left out, and the last note names them.
    """
    width = WIDTH if width is None else checks.check_count("width", width)
    if width < LEAST_WIDTH:
        raise ValueError(f"`width` must be at least {LEAST_WIDTH} columns, received: {width}.")
    lines, left_out, widest = lines_of(table.tables(history), width)
    notes = table.notes(history, left_out)
    if left_out:
        notes.append(
            f"left out at {width} columns: {', '.join(left_out)}. `summary(width={widest})` and `to_dataframe()` show "
            "them"
        )
    return "\n".join([*lines, *(line for note in notes for line in wrapped(note, width))])


def lines_of(tables, width):
    """Return `(the lines of tables, the names of columns that are left out, the width that shows all columns)`."""
    lines, left_out, widest = [], [], 0
    for each in tables:
        parts, others, needs = _parts(each, width)
        title = each.title
        for part in parts:
            lines += [*([""] if lines else []), *textwrap.wrap(title, width), *_lines(each, part, width)]
            title = f"{each.title}, continued"
        left_out += [column.name for column in others if column.name not in left_out]
        widest = max(widest, needs)
    return lines, left_out, widest


def wrapped(note, width):
    """Return the lines of a note."""
    # Not at hyphens, which commands and names have.
    return textwrap.wrap(note, width, break_on_hyphens=False)


def _parts(content, width):
    """Return `(the columns of each table, columns that are left out, the width that shows all in one table)`."""
    room = width - _width_of([content.rows, *(label for section in content.sections for label in section)])
    # A column that is wider than the table is folded.
    needs = {id(column): min(_GAP + _width(column), room) for column in content.columns}
    waiting = sorted(content.columns, key=lambda column: column.rank)
    parts = []
    while not parts or any(column.is_needed for column in waiting):
        part, left = [], room
        for column in waiting:
            if needs[id(column)] <= left and (column.is_needed or not parts):
                part.append(column)
                left -= needs[id(column)]
        waiting = [column for column in waiting if column not in part]
        parts.append([column for column in content.columns if column in part])
    return parts, waiting, width - room + sum(_GAP + _width(column) for column in content.columns)


def _width(column):
    return _width_of([*column.header.split("\n"), *column.cells])


def _width_of(texts):
    # Optional.
    from rich.cells import cell_len

    return max(map(cell_len, texts))


def _lines(content, columns, width):
    """Return the lines of a table with these columns."""
    # Optional.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
    drawn.add_column(content.rows)
    for column in columns:
        drawn.add_column(column.header, justify="left" if column.name == "verdict" else "right", overflow="fold")
    index = 0
    for labels in content.sections:
        for label in labels:
            drawn.add_row(label, *(column.cells[index] for column in columns))
            index += 1
        drawn.add_section()
    # The text does not depend on the terminal, and names with [brackets] or :colons: are not read as markup.
    text = io.StringIO()
    Console(file=text, width=width, color_system=None, force_jupyter=False, markup=False, emoji=False).print(drawn)
    return [line.rstrip() for line in text.getvalue().rstrip().splitlines()]
