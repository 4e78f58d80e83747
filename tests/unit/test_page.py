"""The page as text: what is ours is read and written, and every other byte comes back as it was."""

import contextlib
import time
from dataclasses import replace

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
        "Held by : nobody",
        "*Held by\u00a0:* nobody",
        "\u00a0Held\u00a0by:\u00a0nobody\u2003",
        "Held by: *nobody*",
        "*Held by:* _nobody_",
        "**Held by**: **nobody**",
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


@pytest.mark.parametrize("line", ["Held by: Bob", "Held by: *Bob*", "*Held by: Bob*", "Held by:\u00a0Bob\u00a0"])
def test_a_name_typed_by_a_person_is_a_hold_without_a_ref(line):
    assert page.read(f"{line}\n") == page.Hold("Bob")


def test_a_full_stop_after_nobody_does_not_make_it_a_name():
    assert page.read("Held by: nobody.\n") is None
    assert page.read(page.write("Held by: nobody.\n", ALICE)) == ALICE
    assert page.read("Held by: No one.\n", page.Rules(nobody="no one.")) is None


@pytest.mark.parametrize(
    "said",
    [
        *("nobody (Bob was here)", "Nobody but Bob", "nobody, until 5", "\u200bnobody", "*nobody", "-Bob- nobody"),
        *("<b>nobody</b>", "%{color:green}nobody%", '"nobody":http://x.org', "[nobody](http://x.org)", "&#110;obody"),
        *("no*body*", "n<b>o</b>body", "@nobody@", "nobody (upgrade; since 2026-11-22 22:30 UTC; ref 3f9c2a1b)"),
    ],
)
def test_nobody_with_a_remark_is_neither_free_nor_a_name(said):
    with pytest.raises(errors.StoreError, match="which is neither 'nobody' nor a name; edit the page"):
        page.read(f"Held by: {said}\n")
    assert page.read("Held by: nobodyson\n") == page.Hold("nobodyson")


def test_a_team_may_have_another_word_for_nobody():
    free, rules = "Held by: niemand\n", page.Rules(nobody="niemand")
    assert page.read(free, rules) is None
    assert page.write(page.write(free, ALICE, rules), None, rules) == free
    assert page.read("Held by: nobody\n", rules) == page.Hold("nobody")


@pytest.mark.parametrize(
    "other",
    [
        "| Held by: | Bob |",
        "|_. Held by: | Bob |",
        "* Held by: Bob",
        "- *Held by:* Bob",
        "> Held by: Bob",
        "## Held by: Bob",
        "\u200bHeld by: Bob",
    ],
)
def test_a_line_that_people_may_go_by_is_not_passed_over(other):
    """The line that can be read may be an example; the one that people keep stands in a table, say."""
    with pytest.raises(errors.StoreError, match=r"2 lines 'Held by: …' \(lines 1, 5\)"):
        page.read(f"{other}\n\nHow it works:\n<pre>\nHeld by: nobody\n</pre>\n")
    with pytest.raises(errors.StoreError, match=r"in a list, a table or a quotation \(line 2\)"):
        page.read(f"\n{other}\n")
    assert page.count_holders(f"{other}\n") == 1


#: What a person reads as "Held by: Bob", or may.
AS_BOB = [
    *("h2. Held by: Bob", "h1(x#y){color:red}. Held by: Bob", "p(my class). Held by: Bob", "p>. Held by: Bob"),
    *("bq. Held by: Bob", "bq.:http://x.org Held by: Bob", "fn1. Held by: Bob", "p. *Held by:* Bob"),
    *("%{color:red}Held by: Bob Brown (upgrading)%", "%(red)Held by: Bob%", "*%{color:red}Held by:%* Bob"),
    *("!lock.png! Held by: Bob", "!>{width:5px}lock.png(a lock)!:http://x.org Held by: Bob"),
    *("![lock](lock.png) Held by: Bob", "{{thumbnail(x.png)}} Held by: Bob", "{{>toc}} Held by: Bob"),
    *("{{collapse(Held by: Bob)", "{{Held by: Bob}}", "[[Held by: Bob]]", "[[Page|Held by: Bob]]"),
    *('"Held by: Bob":http://x.org/bob', "[Held by: Bob](http://x.org)", 'Held by: "Bob":http://x.org'),
    *("[Held](http://x.org) by: Bob", '"Held":http://x.org by: Bob', "Held[1] by: Bob", "Held !x.png! by: Bob"),
    *("<b>Held by:</b> Bob", '<span style="color:red">Held by: Bob</span>', "H<b>el</b>d b<i>y</i>: Bob"),
    *("text<br>Held by: Bob", "text <br/> Held by: Bob", "<Held by: Bob>", "<!-- Held by: Bob -->"),
    *("Held&nbsp;by: Bob", "&#72;eld by: Bob", "Held by&#58; Bob", "&#x48;eld by&colon; Bob", "Held by\\: Bob"),
    *("| x | Held by: Bob |", "|_. Now |\\2. Held by: Bob |", "|{color:red}. Held by: | Bob |", "1. Held by: Bob"),
    *("# Held by: Bob", "- [ ] Held by: Bob", "H*el*d by: Bob", "*Held* *by*: Bob", "**Held** by: Bob"),
    *("-Held by: Bob-", "~~Held by: Bob~~", "@Held by: Bob@", "`Held by: Bob`", "==Held by: Bob=="),
    *("<notextile>Held by: Bob</notextile>", "<pre>Held by: Bob</pre>", '<pre><code class="ruby">Held by: Bob'),
    *("Status: Held by: Bob", "Deploy token - Held by: Bob", "Token (Held by: Bob)", "Token Held by: Bob"),
    *("H<!-- x -->eld by: Bob", "Held !x.png(t)!:http://x.org by: Bob", '":http://x.org<br>Held by: Bob'),
    *(
        "Held\nby: Bob",
        "Held by\n\n : Bob",
        "H<span>eld by: Bob. x",
        "The token is held by: bob",
        "For example Held by: Bob",
        "#123 Held by: Bob",
        "\U0001f512 Held by: Bob",
    ),
    *("Held by\uff1a Bob", "\uff28eld by: Bob", "\u72b6\u6001\uff1aHeld by: \u738b\u4f1f"),
]


@pytest.mark.parametrize("line", AS_BOB)
def test_what_reads_as_a_holder_is_never_passed_over_for_a_free_line(line):
    with pytest.raises(errors.StoreError, match=rf"2 lines 'Held by: …' \(lines 1, {5 + line.count(chr(10))}\)"):
        page.read(f"{line}\n\nExample:\n\nHeld by: nobody\n\nh2. History\n")
    with pytest.raises(errors.StoreError, match=r"2 lines 'Held by: …' \(lines 1, 9\)"):
        page.read(f"Held by: nobody\n\nh2. History\n\n* x\n\nh2. Notes\n\n{line}\n")


@pytest.mark.parametrize("line", ["h2. Held by: nobody", "%{color:green}Held by: nobody%", "!x.png! Held by: nobody"])
def test_the_only_line_in_other_markup_is_refused_with_its_number(line):
    with pytest.raises(errors.StoreError, match=r"in other markup or words, .* \(line 3\); edit the page so that it"):
        page.read(f"h1. Token\n\n{line}\n")


@pytest.mark.parametrize(
    "prose",
    [
        "put your name behind Held by: on top",
        "put your name behind Held by:\nThat is all.",
        "If it says Held by: nobody, go.",
        "See 'Held by:' on top. Look at *Held by:* above, and type `Held by:` or @Held by: nobody@ there.",
        "the line <b>Held by:</b> tells it, withheld by: the court, Held by Bob",
        "| When | Held by | What |",
        "\u8bf7\u5728Held by:\u540e\u9762\u586b\u5199",
    ],
)
def test_a_sentence_that_mentions_the_line_and_names_nobody_is_no_second_one(prose):
    assert page.read(f"{prose}\n\nHeld by: nobody\n\nh2. History\n\n* {prose}\n\n{prose}\n") is None


@pytest.mark.parametrize(
    "entry", ["* 2026-11-20: Held by: Bob", "| 2026-11-20 | Held by: Bob |", "- was held by: Bob"]
)
def test_an_entry_of_the_history_says_who_held_the_token_before(entry):
    assert page.read(f"Held by: nobody\n\nh2. History\n\n{entry}\n") is None
    with pytest.raises(errors.StoreError, match="2 lines"):
        page.read(f"Held by: nobody\n\nh2. Now\n\n{entry}\n")


EXAMPLES = [
    ("<pre>", "</pre>", "<pre>"),
    ('text <pre><code class="x">', "</code></pre>", "<pre>"),
    ("<code>", "</code>", "<code>"),
    ("<notextile>", "</notextile>", "<notextile>"),
    ("```text", "```", "a code fence"),
    ("- ~~~~", "~~~~~", "a code fence"),
    ("<!--", "-->", "a comment"),
    ("<pre>", "", "<pre>"),
]


@pytest.mark.parametrize(("begin", "end", "name"), EXAMPLES)
def test_a_line_in_an_example_is_counted_and_never_the_holders(begin, end, name):
    with pytest.raises(errors.StoreError, match="2 lines"):
        page.read(f"Held by: Bob\n\n{begin}\nHeld by: nobody\n{end}\n")
    with pytest.raises(errors.StoreError, match=rf"stands in an example \(line 2, in {name}\); edit the page"):
        page.read(f"{begin}\nHeld by: nobody\n{end}\n")
    if end:
        assert page.read(f"{begin}\n# x\n{end}\nHeld by: nobody\n") is None


def test_an_indented_line_is_an_example_as_well():
    with pytest.raises(errors.StoreError, match=r"example \(line 2, in an indented block\)"):
        page.read("\n    Held by: nobody\n")


@pytest.mark.parametrize(
    "prose", ["Use `<pre>` for examples.", "a <b>bold</b> word, <prefix> and </pre>", "`` ``` ``"]
)
def test_what_only_looks_like_an_example_hides_nothing(prose):
    assert page.read(f"{prose}\n\nHeld by: nobody\n") is None


def test_a_holder_longer_than_any_line_of_ours_is_refused():
    with pytest.raises(errors.StoreError, match="more than 1000 characters"):
        page.read("Held by: " + "x" * 1001)


LONG = [
    unit * (100_000 // len(unit))
    for unit in (
        *(
            " (",
            "#",
            "# ",
            "*",
            "_*",
            "a: ",
            ": ",
            " ",
            "-|",
            "=",
            "held by ",
            "; since ",
            "x Held by: ",
            "(ref 3f9c2a1b ",
        ),
        *("<", "<pre>", "`", "&#72;", "{{", "!", "](", "a://", "()", "- "),
    )
]


@pytest.mark.parametrize("filler", LONG, ids=lambda filler: repr(filler[:8]))
def test_no_line_however_long_takes_long(filler):
    begun = time.process_time()
    for line in (
        f"Held by: {filler}",
        f"Held by{filler}",
        f"h2. {filler}x",
        f"# {filler}x",
        f"{filler}x",
        f"* {filler} 3f9c2a1b",
    ):
        with contextlib.suppress(errors.StoreError):
            page.read(line)
        text = f"Held by: nobody\nh2. History\n{line}\n"
        page.entries(text, "3f9c2a1b")
        page.add_entry(text, "| x |")
        page.add_entry(text, "- x")
    page.tame(filler)
    # A tenth of a second each; with a gap in a pattern for each field it was minutes.
    assert time.process_time() - begun < 5


FULL = page.Hold(
    *("Alice", "upgrade PostgreSQL", "2026-11-22 22:30 UTC", "3f9c2a1b", "2026-11-23 00:30 UTC"),
    job="20261122223001123456@master1",
)
WRITTEN = page.hold_text(FULL)


@pytest.mark.parametrize(
    "line",
    [
        *(f"{WRITTEN} - lunch", f"{WRITTEN}.", WRITTEN[:-1], f"{WRITTEN} (back at 5; ref 3f9c2a1b)"),
        *(WRITTEN.replace(" ", "\u00a0"), WRITTEN.replace("; ", " ;  "), WRITTEN.replace(" (", "(")),
        *(WRITTEN.replace("since", "Since").replace("ref", "Ref"), WRITTEN.replace(" (", "; ")[:-1]),
    ],
)
def test_a_hold_whose_line_was_touched_by_hand_is_still_that_hold(line):
    assert page.read(f"Held by: {line}\n") == FULL
    assert page.read(f"*Held by:* {line}\n") == FULL
    assert page.write(f"Held by: {line}\nx", None) == "Held by: nobody\nx"


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        (WRITTEN.replace("upgrade", "upgrade (to 15); or more"), {"reason": "upgrade (to 15); or more PostgreSQL"}),
        (WRITTEN.replace("upgrade PostgreSQL; ", ""), {"reason": None}),
        (WRITTEN.replace("; since 2026-11-22 22:30 UTC", ""), {"since": None}),
        (WRITTEN.replace("Alice ", ""), {"name": "?"}),
        # Nobody can tell whether such a job runs.
        (WRITTEN.replace("20261122223001123456", "x"), {"job": "?"}),
        ("Alice (ref 3f9c2a1b)", {"reason": None, "since": None, "until": None, "job": None}),
    ],
)
def test_what_was_changed_or_lost_by_hand_is_all_that_changes(line, changed):
    hold = replace(FULL, **changed)
    assert page.read(f"Held by: {line}\n") == hold
    assert page.read(page.write("Held by: nobody", hold)) == hold


@pytest.mark.parametrize("more", [WRITTEN.replace("3f9c2a1b", "11111111"), "(see ref 11111111)", "; Ref 11111111"])
def test_two_refs_on_the_line_are_refused(more):
    with pytest.raises(errors.StoreError, match=r"has 2 refs \(11111111, 3f9c2a1b\), .* edit the page"):
        page.read(f"Held by: {WRITTEN} {more}\n")
    with pytest.raises(errors.StoreError, match="has 2 refs"):
        page.read(f"Held by: {WRITTEN.replace('11111111', '3f9c2a1b')} {WRITTEN.replace('3f9c2a1b', '11111111')}\n")


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
    assert page.add_entry(before, ENTRY, page.Rules(newest="last")) == after


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


RULES = {
    "*": page.Rules(entry="* {summary} (ref {ref})"),
    "-": page.Rules(entry="- {summary} (ref {ref})"),
    "|": page.Rules(entry="| {summary} | {ref} |"),
}
# ▲ is where the newest entry goes if it is first, ▼ if it is last; M is the mark of an entry, and its end.
PLACES = [
    "<pre>\nM example M\nh2. History\n</pre>\n\n▲M old M\nM older M\n▼",
    "~~~\nM example M\n~~~\n\n▲M old M\n▼\n```\nM example M\n# no heading\n```\n",
    "<!--\nM example M\n-->\n\n▲M old M\n▼\n<notextile>\nM example M\n</notextile>\n",
    "▲M old M\n▼\n---\n\nM imprint M\n",
    "▲M old M\n▼\n* * *\n\nM imprint M\n",
    "▲M old M\n▼\n{{include(Footer)}}\n\nM imprint M\n",
    "▲M old M\n▼\nSee also:\n\nM archive M\n",
    "M how to write one M\n\nEntries:\n\n▲M old M\nOURS\n▼\nSee also:\n\nM archive M\n",
    "----\n\n▲OURS\n▼\n---\nImprint\n",
    "{{collapse(Show)\n▲M old M\n▼}}\n\nTrailing.\n",
    "▲M old M\n▼M mended <pre> there M\nM older M\n",
]


@pytest.mark.parametrize("mark", RULES)
@pytest.mark.parametrize("places", PLACES)
def test_an_entry_goes_where_the_entries_are(places, mark):
    ours, new = (
        {"*": f"* {x} (ref {x})", "-": f"- {x} (ref {x})", "|": f"| {x} | {x} |"}[mark] for x in ("2" * 8, "1" * 8)
    )
    text = "Held by: nobody\n\nh2. History\n\n" + places.replace("OURS", ours)
    text = text.replace("M\n", "|\n" if mark == "|" else "\n").replace("M ", f"{mark} ")
    before = text.replace("▲", "").replace("▼", "")
    for newest, place, other in (("first", "▲", "▼"), ("last", "▼", "▲")):
        rules = replace(RULES[mark], newest=newest)
        assert page.add_entry(before, new, rules) == text.replace(other, "").replace(place, f"{new}\n")


@pytest.mark.parametrize("footer", ["---\n\nM imprint\n", "{{include(Footer)}}\n", "<hr/>\nImprint\n"])
def test_the_first_entry_goes_above_a_footer(footer):
    for mark, rules in RULES.items():
        entry, end = f"{mark} x", footer.replace("M", mark)
        assert page.add_entry(f"h2. History\n\n{end}", entry, rules) == f"h2. History\n\n{entry}\n\n{end}"
        # A page without the heading, and one whose last lines are an example that nobody closed.
        text = f"Held by: nobody\n\n{end}"
        assert page.add_entry(text, entry, rules) == f"Held by: nobody\n\n\nh2. History\n\n{entry}\n\n{end}"
    assert page.add_entry("Held by: nobody\n```\n", "* x") == "Held by: nobody\n\nh2. History\n\n* x\n\n```\n"


def test_a_list_for_each_month_goes_on_with_the_newest_month():
    text = "h2. History\n\nh3. October\n\n* a\n\nh3. November\n\n* b\n"
    assert page.add_entry(text, "* new", page.Rules(newest="last")) == f"{text}* new\n"


def test_an_entry_is_found_by_its_ref_and_by_no_mention_of_it():
    rules = page.Rules(entry="* {until} {name}: {summary} (ref {ref})")
    mentions = (
        "* 2026-11-23 Bob: look at ref 3f9c2a1b (ref 11111111)\nsee (ref 3f9c2a1b)\n"
        "On 2026-11-23 Bob: went on (ref 3f9c2a1b)\n* see (ref 3f9c2a1b)\n* 2026-11-23 Bob: 3f9c2a1b\n"
    )
    text = f"h2. History\n\n{ENTRY} and a remark\n{mentions}"
    assert page.entries(text, "3f9c2a1b", rules) == [f"{ENTRY} and a remark"]


@pytest.mark.parametrize(
    "bad", ["", " ", "a\nb", "a\x1bb", "a\u2028b", "a(b", "a]b", "a|b", "x" * 201, "Held by: Bob"]
)
def test_what_would_break_the_line_is_refused(bad):
    for check in (page.check_name, page.check_reason):
        with pytest.raises(errors.Invalid, match=r"^(name|reason): "):
            check(bad)


@pytest.mark.parametrize("template", ["* {ref} {summary}", "* {summary} [{ref}]", "| {until} | {summary} | {ref} |"])
def test_a_mention_of_another_ref_does_not_pass_for_its_entry(template):
    hold, rules = page.Hold("Bob", "x", "2026-11-22 22:30 UTC", "11111111"), page.Rules(entry=template)
    entry = page.render_entry(hold, rules, until="2026-11-22 23:30 UTC", summary="after [3f9c2a1b] 3f9c2a1b")
    assert page.entries(entry, "11111111", rules) == [entry]
    assert page.entries(entry, "3f9c2a1b", rules) == []


def test_an_entry_has_no_html_tag_whoever_wrote_it():
    hold = page.Hold("Bob <b>", None, None, "11111111")
    rules = page.Rules(entry="* {name}: {summary}{notes} ({ref})")
    entry = page.render_entry(hold, rules, until="", summary="a <pre>", notes=["</ul>"])
    assert entry == "* Bob &lt;b>: a &lt;pre>; &lt;/ul> (11111111)"


@pytest.mark.parametrize("markup", ["textile", "markdown"])
def test_a_new_page_says_how_to_take_the_token_and_is_free(markup):
    rules = page.Rules(nobody="niemand", heading="Verlauf")
    text = page.initial(markup, rules)
    assert page.read(text, rules) is None
    assert "put your name in place of niemand" in text
    assert page.add_entry(text, ENTRY, rules).endswith(f" Verlauf\n\n{ENTRY}\n")


@pytest.mark.parametrize("bad", ["nobody", "NoBody", "'nobody'", "nobody.", "*Alice*", "_x", "Alice; ref 11111111"])
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


@pytest.mark.parametrize("check", [page.check_name, page.check_reason, page.check_summary])
@pytest.mark.parametrize(
    "bad",
    ["Held by: x", "so held  by *: x", "H*el*d by: x", "Held by&#58; x", "was taken over by Bob", "Taken Over By"],
)
def test_words_that_mark_a_line_or_an_entry_are_refused_everywhere(check, bad):
    with pytest.raises(errors.Invalid, match=r"must not hold '(Held by:|taken over by)'"):
        check(bad)


def test_an_entry_that_begins_with_a_name_is_no_holders_line():
    with pytest.raises(errors.Invalid, match="must not end with 'Held by'"):
        page.check_name("Held by")


@pytest.mark.parametrize("heading", ["History:", "Historia", "*History*"])
def test_a_heading_is_found_again_however_it_is_configured(heading):
    rules = page.Rules(heading=heading)
    once = page.add_entry("Held by: nobody\n", ENTRY, rules)
    twice = page.add_entry(once, "* next (ref 11111111)", rules)
    assert twice.count(f"h2. {heading}") == 1


def test_times_on_the_page_are_utc_and_read_back():
    assert page.stamp(0) == "1970-01-01 00:00 UTC"
    assert page.parse_stamp(page.stamp(86400)) == 86400
    assert page.parse_stamp("yesterday") is None
