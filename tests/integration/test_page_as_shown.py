"""What people see on the wiki: a page that stays whole, whatever somebody writes into an entry."""

import html
import re

import pytest

from saltext.deploytoken import page

TAGS = ["<pre>", "<code class='x'>", "<notextile>", "<kbd>", "</ul>", "<table>", "<!-- x", "<script>"]


@pytest.mark.parametrize("formatting", ["textile", "markdown", "common_mark"])
def test_an_html_tag_in_an_entry_swallows_no_other(redmine, formatting):
    text = page.initial("textile" if formatting == "textile" else "markdown")
    for number, tag in enumerate(["the first", *TAGS]):
        hold = page.Hold("Alice", "x", "2026-11-22 22:30 UTC", f"{number:08x}")
        entry = page.render_entry(hold, until=hold.since, summary=f"mended {tag} there")
        text = page.add_entry(text, entry)
    with redmine.setting("text_formatting", formatting):
        status, shown = redmine.request("GET", redmine.new_page(text, project="open"), login=None)

    assert status == 200
    items = re.findall(r"<li>2026-11-22 22:30 UTC Alice: mended (.*?) there .*?</li>", shown, re.S)
    assert [html.unescape(item) for item in items] == [*reversed(TAGS), "the first"]
