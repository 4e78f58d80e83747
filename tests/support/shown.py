"""What people see of a wiki page: a process of Redmine shows any text in some milliseconds, without saving it."""

import html.parser
import json
import pathlib
import re
import subprocess

from tests.support import process
from tests.support.redmine import HOME

SCRIPT = pathlib.Path(__file__).with_name("shown.rb")
FORMATTINGS = ("textile", "markdown", "common_mark")

_BLOCKS = {
    *("address", "article", "blockquote", "br", "caption", "dd", "details", "div", "dl", "dt", "fieldset", "h1", "h2"),
    *("h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "section", "summary", "table", "tbody", "td", "th"),
    *("thead", "tr", "ul"),
}
_VOID = {"br", "hr", "img", "input"}


class Shown:
    """A running renderer over the ``redmine`` fixture's database and files."""

    def __init__(self, redmine, log):
        self.log = log
        with open(log, "ab") as errors:
            self._process = subprocess.Popen(
                ["/usr/bin/bundle", "exec", "rails", "runner", str(SCRIPT)],
                cwd=HOME,
                env=redmine._environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def html(self, formatting, text):
        """The HTML that Redmine makes of ``text``."""
        self._process.stdin.write(json.dumps({"formatting": formatting, "text": text}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, process.tail(self.log)
        return json.loads(answer)

    def lines(self, formatting, text):
        """What a person reads, line by line, each with the tags around it."""
        parser = _Lines()
        parser.feed(self.html(formatting, text))
        parser.close()
        return parser.end()

    def stop(self):
        self._process.stdin.close()
        process.end(self._process, 60)


class _Lines(html.parser.HTMLParser):
    """Breaks HTML into lines as a browser does, but for cells of a table, which are a line each."""

    def __init__(self):
        super().__init__()
        self._open, self._text, self._lines = [], "", []

    def handle_starttag(self, tag, attributes):
        if tag in _BLOCKS:
            self._break()
        if tag not in _VOID:
            self._open.append((tag, dict(attributes).get("class") or ""))

    def handle_endtag(self, tag):
        if tag in _BLOCKS:
            self._break()
        if tag in (names := [name for name, _ in self._open]):
            del self._open[len(names) - 1 - names[::-1].index(tag) :]

    def handle_data(self, data):
        if any(name == "wiki-anchor" for _, name in self._open):
            return
        if any(tag == "pre" for tag, _ in self._open):
            *whole, data = data.split("\n")
            for line in whole:
                self._text += line
                self._break()
        self._text += data

    def _break(self):
        if text := re.sub(r"\s+", " ", self._text).strip():
            self._lines.append((text, tuple(tag for tag, _ in self._open)))
        self._text = ""

    def end(self):
        self._break()
        return self._lines
