"""HTML pages, as tests read them."""

import html.parser
import re

# Elements without an end.
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(html.parser.HTMLParser):
    """The headings, tables and texts of a page, and all attributes. Tags must be balanced.

    Attributes:
        texts: by the tag around them.
        attributes: all pairs.
        tables: for each table, a list of rows of the texts of their cells.
        text: all text outside `script` and `style`.
    """

    def __init__(self, text):
        super().__init__()
        self.texts, self.attributes, self.tables, self.open, self.text = {}, [], [], [], ""
        self.feed(text)
        self.close()
        assert [] == self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        if not self.open or {"script", "style"} & set(self.open):
            return
        if data.strip():
            self.texts.setdefault(self.open[-1], []).append(data)
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def table(self, *head):
        """The rows of the first table whose head begins with these names."""
        return next(rows[1:] for rows in self.tables if rows and rows[0][: len(head)] == list(head))


def external(page):
    """What a page would load from elsewhere."""
    links = re.findall(r'(?:src|href|action|data)="(?!data:|#)[^"]*"', page)
    return links + re.findall(r"url\((?!#)[^)]*\)|@import|<link|<iframe|<script src", page)
