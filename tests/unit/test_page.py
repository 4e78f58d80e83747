"""The page as text: what is ours is read and written, and every other byte comes back as it was."""

import pytest

from saltext.deploytoken import errors, page

ALICE = page.Hold("Alice", "upgrade PostgreSQL", "2026-11-22 22:30 UTC", "3f9c2a1b")
LINE = "Alice (upgrade PostgreSQL; since 2026-11-22 22:30 UTC; ref 3f9c2a1b)"
ENTRY = "* 2026-11-22 23:10 UTC Alice: upgraded (ref 3f9c2a1b)"


@pytest.mark.parametrize(
    "line",
    [
        "Held by: nobody",
        "Held by:nobody",
        "*Held by:* nobody",
        "*Held by*: nobody",
        "**Held by:** nobody",
        "**Held by: nobody**",
        "*Held by: nobody*",
        "_Held by:_ nobody  ",
        "held by: Nobody",
        "\ufeffHeld by: nobody",
    ],
)
@pytest.mark.parametrize("eol", ["\n", "\r\n", "\r"])
def test_the_line_is_found_in_every_form_and_its_marks_survive(line, eol):
    text = f"{line}{eol}{eol}h2. History{eol}"
    assert page.read(text) is None
    held = page.write(text, ALICE)
    assert page.read(held) == ALICE
    before, after = line.lower().split("nobody")
    assert (
        held.lower()
        == f"{before if before[-1] != ':' else before + ' '}{LINE.lower()}{after}{eol}{eol}h2. history{eol}"
    )


def test_a_name_typed_by_a_person_is_a_hold_without_a_ref():
    assert page.read("Held by: Bob\n") == page.Hold("Bob")


def test_a_reason_edited_by_hand_is_still_the_same_hold():
    assert page.read("Held by: Alice (upgrade (to 15); since 2026-11-22 22:30 UTC; ref 3f9c2a1b)\n").ref == "3f9c2a1b"


def test_an_expected_end_stands_on_the_line():
    hold = page.Hold("Alice", "upgrade", "2026-11-22 22:30 UTC", "3f9c2a1b", "2026-11-23 00:30 UTC")
    assert page.read(page.write("Held by: nobody", hold)) == hold


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Holder: nobody\n",
        "Held by: nobody\nHeld by: Bob\n",
        "Held by:\n",
        "*Held by:*  \n",
        "If it says Held by: nobody, go.\n",
    ],
)
def test_a_page_that_does_not_say_who_holds_the_token_is_refused(text):
    with pytest.raises(errors.StoreError, match="Held by"):
        page.read(text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("h2. History\n", f"h2. History\n\n{ENTRY}\n"),
        ("h2. History\n\n* old\n", f"h2. History\n\n{ENTRY}\n* old\n"),
        ("h2. History\r\n\r\n* old\r\n", f"h2. History\r\n\r\n{ENTRY}\r\n* old\r\n"),
        (
            "h2. History\n\nWhat was done:\n\n* old\n* older",
            f"h2. History\n\nWhat was done:\n\n{ENTRY}\n* old\n* older",
        ),
        ("h2. History\nh2. Notes\n", f"h2. History\n\n{ENTRY}\n\nh2. Notes\n"),
        (
            "h2. History\n\n* old\n\nh2. Notes\n\n* no entry\n",
            f"h2. History\n\n{ENTRY}\n* old\n\nh2. Notes\n\n* no entry\n",
        ),
        ("## History ##\n\n* old\n", f"## History ##\n\n{ENTRY}\n* old\n"),
        ("History\n-------\n\n* old\n", f"History\n-------\n\n{ENTRY}\n* old\n"),
        ("h2. History", f"h2. History\n\n{ENTRY}"),
        ("h3. Other\n\n* a\n", f"h3. Other\n\n* a\n\nh2. History\n\n{ENTRY}\n"),
        ("# Other\n", f"# Other\n\n## History\n\n{ENTRY}\n"),
    ],
)
def test_the_newest_entry_stands_first_below_the_heading(before, after):
    assert page.add_entry(before, ENTRY) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("h2. History\n\n* old\n", f"h2. History\n\n* old\n{ENTRY}\n"),
        (
            "h2. History\n\n* old\nwent on\n\nSee the archive.\n",
            f"h2. History\n\n* old\nwent on\n{ENTRY}\n\nSee the archive.\n",
        ),
        ("h2. History\n\n* old", f"h2. History\n\n* old\n{ENTRY}"),
    ],
)
def test_the_newest_entry_stands_last_where_it_is_so_configured(before, after):
    assert page.add_entry(before, ENTRY, newest="last") == after


@pytest.mark.parametrize(
    ("table", "new"),
    [
        ("|_. When |_. Who |\n| old | A |\n", "|_. When |_. Who |\n| new | B |\n| old | A |\n"),
        ("|_. When |_. Who |\n", "|_. When |_. Who |\n| new | B |\n"),
        ("| When | Who |\n|---|:-:|\n| old | A |\n", "| When | Who |\n|---|:-:|\n| new | B |\n| old | A |\n"),
        ("| When | Who |\n|---|---|\n", "| When | Who |\n|---|---|\n| new | B |\n"),
        ("| old | A |\n", "| new | B |\n| old | A |\n"),
    ],
)
def test_a_row_goes_below_the_header_of_a_table(table, new):
    assert page.add_entry(f"h2. History\n\n{table}", "| new | B |") == f"h2. History\n\n{new}"


def test_an_entry_is_found_by_its_ref_and_by_no_mention_of_it():
    template = "* {until} {name}: {summary} (ref {ref})"
    mentions = "* 2026-11-23 Bob: look at ref 3f9c2a1b (ref 11111111)\nsee (ref 3f9c2a1b)\n"
    text = f"h2. History\n\n{ENTRY} and a remark\n{mentions}"
    assert page.entries(text, "3f9c2a1b", template) == [f"{ENTRY} and a remark"]


@pytest.mark.parametrize(
    "bad", ["", " ", "a\nb", "a\x1bb", "a\u2028b", "a(b", "a]b", "a|b", "x" * 201, "Held by: Bob"]
)
def test_what_would_break_the_line_is_refused(bad):
    for check in (page.check_name, page.check_reason):
        with pytest.raises(errors.Invalid, match=r"^(name|reason): "):
            check(bad)


@pytest.mark.parametrize("template", ["* {ref} {summary}", "* {summary} [{ref}]", "| {until} | {summary} | {ref} |"])
def test_a_mention_of_another_ref_does_not_pass_for_its_entry(template):
    hold = page.Hold("Bob", "x", "2026-11-22 22:30 UTC", "11111111")
    entry = page.render_entry(template, hold, until="2026-11-22 23:30 UTC", summary="after [3f9c2a1b] 3f9c2a1b")
    assert page.entries(entry, "11111111", template) == [entry]
    assert page.entries(entry, "3f9c2a1b", template) == []


def test_an_entry_has_no_html_tag_whoever_wrote_it():
    hold = page.Hold("Bob <b>", None, None, "11111111")
    entry = page.render_entry("* {name}: {summary}{notes} ({ref})", hold, until="", summary="a <pre>", notes=["</ul>"])
    assert entry == "* Bob &lt;b>: a &lt;pre>; &lt;/ul> (11111111)"


@pytest.mark.parametrize("markup", ["textile", "markdown"])
def test_a_new_page_says_how_to_take_the_token_and_is_free(markup):
    text = page.initial(markup, "niemand", "Verlauf")
    assert page.read(text, "niemand") is None
    assert "put your name in place of niemand" in text
    assert page.add_entry(text, ENTRY, "Verlauf").endswith(f" Verlauf\n\n{ENTRY}\n")


@pytest.mark.parametrize("bad", ["nobody", "NoBody", "*Alice*", "_x"])
def test_a_name_that_reads_as_something_else_is_refused(bad):
    with pytest.raises(errors.Invalid, match=r"^name: "):
        page.check_name(bad)


@pytest.mark.parametrize("bad", ["x; since y", "x; ref abc", "x;expected until y"])
def test_a_reason_with_our_marks_is_refused(bad):
    with pytest.raises(errors.Invalid, match=r"^reason: "):
        page.check_reason(bad)


@pytest.mark.parametrize("bad", ["a|b", "a\nb", "Taken over by Bob", "x" * 501])
def test_a_summary_that_would_pass_for_another_entry_is_refused(bad):
    with pytest.raises(errors.Invalid, match=r"^summary: "):
        page.check_summary(bad)


def test_times_on_the_page_are_utc_and_read_back():
    assert page.stamp(0) == "1970-01-01 00:00 UTC"
    assert page.parse_stamp(page.stamp(86400)) == 86400
    assert page.parse_stamp("yesterday") is None
