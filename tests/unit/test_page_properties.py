"""For any page and any name: reading after writing gives what was written, and no foreign byte changes."""

import re

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from saltext.deploytoken import errors, page

# A machine that has other work is no counterexample.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

EOLS = st.sampled_from(["\n", "\r\n", "\r"])
PIECES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            "h2. History",
            "## History",
            "h1. Page",
            "* item",
            "| a | b |",
            "|_. a |",
            "|---|",
            "-----",
            "",
            *(
                "<pre>",
                "</pre>",
                "text <code> text",
                "```",
                "~~~ text",
                "<!--",
                "-->",
                "---",
                "{{include(x)}}",
                "Imprint",
            ),
            *("put your name behind Held by: on top", "| Held by: | Bob |", "h2. Held by: Bob"),
            "\ufeff",
            "* x (ref 3f9c2a1b)",
        ]
    ),
)
MARKS = st.sampled_from(["Held by: {}", "*Held by:* {}", "**Held by:** {}", "*Held by: {}*", "__Held by:__\t{} "])
REFS = st.text("0123456789abcdef", min_size=8, max_size=8)
LINES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40)


def _accepted(check, value):
    try:
        return check(value)
    except errors.Invalid:
        return None


NAMES = LINES.map(lambda text: _accepted(page.check_name, text)).filter(bool)
REASONS = LINES.map(lambda text: _accepted(page.check_reason, text)).filter(bool)
HOLDS = st.builds(
    page.Hold,
    name=NAMES,
    reason=REASONS,
    since=st.just("2026-11-22 22:30 UTC"),
    ref=REFS,
    until=st.none() | st.just("2026-11-23 01:00 UTC"),
    job=st.none() | st.just("20261122223001123456@master.example-1"),
)


@st.composite
def pages(draw):
    """A page with one holder's line, and everything around it from real markup and any Unicode."""
    eol = draw(EOLS)
    before, after = draw(st.lists(PIECES, max_size=6)), draw(st.lists(PIECES, max_size=6))
    mark = draw(MARKS)
    text = eol.join([*before, mark.format("nobody"), *after])
    try:
        page.read(text)
    except errors.StoreError:
        text = mark.format("nobody") + eol
    return text


@given(pages(), HOLDS)
def test_reading_after_writing_gives_what_was_written(text, hold):
    held = page.write(text, hold)
    assert page.read(held) == hold
    assert page.read(page.write(held, None)) is None


#: What a person may leave behind the bracket, while thinking of something else.
BEHIND = LINES.map(str.strip).filter(lambda text: text and not re.search("ref|[\r\n]", text, re.I))


@given(HOLDS, BEHIND, st.sampled_from([" ", "\u00a0", "  ", "\u2009"]))
def test_words_behind_and_other_spaces_leave_a_hold_what_it_is(hold, behind, space):
    line = page.hold_text(hold).replace("; ", f";{space}").replace(" (", f"{space}(")
    assert page.read(f"Held by: {line}{space}{behind}\n") == hold
    assert page.write(f"Held by: {line}{space}{behind}\n", None) == "Held by: nobody\n"


@given(pages(), HOLDS)
def test_bytes_outside_the_line_never_change(text, hold):
    held = page.write(text, hold)
    at = held.index(page.hold_text(hold))
    assert text.startswith(held[:at])
    assert text.endswith(held[at + len(page.hold_text(hold)) :])
    assert page.write(held, None) == text


@given(pages(), REFS, st.sampled_from(["first", "last"]), st.sampled_from(["* x (ref {})", "| x | {} |", "- {}"]))
def test_an_entry_is_added_and_nothing_else_changes(text, ref, newest, template):
    entry = template.format(ref)
    rules = page.Rules(entry=template.replace("{}", "{ref}"), newest=newest)
    added = page.add_entry(text, entry, rules)
    assert page.read(added) == page.read(text)
    assert page.entries(added, ref, rules)
    # What was there stands there still, in its order, around one inserted block.
    start = next((i for i, (a, b) in enumerate(zip(text, added, strict=False)) if a != b), len(text))
    assert any(
        added.endswith(text[at:]) and added.startswith(text[:at])
        for at in range(max(0, start - len(entry) - 8), start + 1)
    )


#: Words that mean something on the page, next to whatever else there may be.
MARKED = st.lists(
    st.one_of(
        st.text(max_size=5),
        st.sampled_from(
            ["held", "by", "Held by", ":", "*:", " ", "\u00a0", "taken over", "Taken Over By", "b\u1e99", "|"]
        ),
    ),
    max_size=8,
).map("".join)


@given(MARKED)
@example("taken over b\u1e99")  # whose casefold has another character behind a y
@example("held  by\u00a0*: | taken\tover by")
def test_whatever_a_machine_says_is_tamed_into_a_summary_that_is_accepted(words):
    tamed = page.tame(words)
    assert page.tame(tamed) == tamed
    if tamed:
        assert page.check_summary(tamed) == tamed
        assert page.check_note(f"with {tamed}", "consent")


@given(LINES)
def test_a_name_is_accepted_as_it_is_or_refused(name):
    accepted = _accepted(page.check_name, name)
    assert accepted in (None, name.strip())
