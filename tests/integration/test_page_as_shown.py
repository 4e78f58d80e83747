"""What people see on the wiki: a page that stays whole, whatever somebody writes into an entry or around the line."""

import html
import re

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from saltext.deploytoken import errors, page
from tests.support.shown import FORMATTINGS, Shown

TAGS = ["<pre>", "<code class='x'>", "<notextile>", "<kbd>", "</ul>", "<table>", "<!-- x", "<script>"]


@pytest.mark.parametrize("formatting", FORMATTINGS)
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


@pytest.fixture(scope="module", autouse=True)
def shown(redmine, tmp_path_factory):
    # It needs seconds to start, meanwhile the first tests run.
    renderer = Shown(redmine, tmp_path_factory.mktemp("shown") / "log")
    yield renderer
    renderer.stop()


def patient(examples):
    """Many examples of one renderer; what fails is shown as it was found, for shrinking takes minutes."""
    return settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


# A small grammar of both markups, and of what editors paste. Whether it means anything in the one at hand is left to
# Redmine.
WORDS = st.sampled_from(
    [
        *("Held by:", "Held by:", "held by:", "*Held by:*", "**Held by:**", "Held *by*:", "H*el*d by:", "_Held_ by :"),
        *("Held&nbsp;by:", "&#72;eld by:", "Held by&#58;", "H<b>el</b>d by:", "Held\u00a0by:", "<b>Held by:</b>"),
        *('"Held":http://x.org by:', "[Held](http://x.org) by:", "%{color:red}Held% by:", "Held by\\:", "Held by:\n"),
        *("Held !x.png! by:", "Held[1] by:", "~~Held~~ by:", "`Held by:`", "@Held by:@", "Held<br>by:"),
    ]
)
NAMES = st.sampled_from(
    [
        *("nobody", "nobody", "nobody", "Bob Brown", "Bob Brown (upgrading)", "*Bob Brown*", "nobody, says Bob Brown"),
        *("%{color:red}Bob Brown%", '"Bob Brown":http://x.org', "[Bob Brown](http://x.org)", "-nobody- Bob Brown"),
        *("*nobody*", "<b>nobody</b>", "%{color:red}nobody%", "n&#111;body", "~~Bob~~ nobody", "@nobody@", "nobody."),
        "Bob Brown (upgrade; since 2026-11-22 22:30 UTC; ref 3f9c2a1b) - lunch",
    ]
)
AROUND = st.sampled_from(
    [
        *(
            "{}",
            "{}",
            "{}",
            "*{}*",
            "h2. {}",
            "p(x y). {}",
            "p{{color:red}}. {}",
            "p=. {}",
            "bq. {}",
            "fn2. {}",
            "## {}",
        ),
        *(
            "%{{color:red}}{}%",
            "%(x){}%",
            "*%{{color:red}}{}%*",
            "!x.png! {}",
            "![x](x.png) {}",
            "!x.png!:http://x.org {}",
        ),
        *(
            "{{{{collapse({})\nx\n}}}}",
            "{{{{thumbnail(x.png)}}}} {}",
            "[[Page|{}]]",
            '"{}":http://x.org',
            "[{}](http://x.org)",
        ),
        *(
            "| {} |",
            "| Now | {} |",
            "|_. Now |_. {} |\n| a | b |",
            "| a | b |\n|---|---|\n| Now | {} |",
            "* {}",
            "# {}",
        ),
        *("1. {}", "- [ ] {}", "> {}", "* a\n** {}", "<pre>\n{}\n</pre>", "<pre>{}</pre>", "```\n{}\n```", "    {}"),
        *('<pre><code class="ruby">\n{}\n</code></pre>', "~~~ text\n{}\n~~~", "<!--\n{}\n-->", "<!-- {} -->"),
        *(
            "<notextile>{}</notextile>",
            "==\n{}\n==",
            "<div>{}</div>",
            "<span style='color:red'>{}</span>",
            "text<br>{}",
        ),
        *(
            "Status: {}",
            "Now - {}",
            "Now ({})",
            "{}\n----",
            "{}\n===",
            "text\n{}\ntext",
            "text <pre>\n{}",
            "~~{}~~",
            "@{}@",
        ),
        *(
            "`{}`",
            "table(x).\n| {} |",
            "|{{color:red}}. {} |",
            "|\\2. {} |",
            "<p>{}",
            "<details><summary>{}</summary>",
        ),
    ]
)
ONCE = st.builds(lambda around, words, name: around.format(f"{words} {name}"), AROUND, WORDS, NAMES)
CLAIMS = st.one_of(ONCE, st.builds(lambda around, claim: around.format(claim), AROUND, ONCE))
INNOCENT = st.sampled_from(
    [
        *("Some words.", "h3. Notes", "### Notes", "---", "* one\n* two", "- one", "| a | b |", "> quoted", "{{toc}}"),
        *("put your name behind Held by: on top", "If it says *Held by:* nobody, go.", "Look at `Held by:` there."),
        *("<pre>\n# h2. x\n</pre>", "```\n* x\n```", "<!-- x -->", "Held by Bob", "an `<pre>` tag", "withheld by: x"),
        *(
            "h2. History\n\n* 2026-11-20: Held by: Bob\n* 2026-11-19 Bob: upgraded",
            "h1. Token",
            "# Token",
            "a <b>c</b> d",
        ),
    ]
)
CLAIM = re.compile(r"[\W_]*held\s+by[\W_]*?:[\W_]*(.*)", re.I)


def claims(lines):
    """What a reader sees behind a "Held by:" that begins a line, on that line or on the next."""
    texts = [text for text, _ in lines]
    found = [(CLAIM.fullmatch(text), below) for text, below in zip(texts, [*texts[1:], ""], strict=True)]
    return [match[1] or below for match, below in found if match]


@patient(300)
@given(
    st.lists(INNOCENT, max_size=1),
    st.one_of(CLAIMS, st.builds("{} {}".format, WORDS, NAMES)),
    st.lists(INNOCENT, max_size=1),
    st.sampled_from(["", "", "Held by: nobody", "Example: Held by: nobody", "<pre>\nHeld by: nobody\n</pre>"]),
)
def test_what_people_see_is_what_is_read_or_the_page_is_refused(shown, before, claim, after, example):
    text = "\n\n".join([*before, claim, *after, example])
    try:
        hold = page.read(text)
    except errors.StoreError:
        event("refused")
        return
    event("held" if hold else "free")
    for formatting in FORMATTINGS:
        said = claims(shown.lines(formatting, text))
        if hold is None:
            assert [name for name in said if not name.startswith("nobody")] == [], (formatting, text)
            assert said, (formatting, text)
        else:
            assert "Bob Brown" in hold.name, text
            assert any("Bob Brown" in name for name in said), (formatting, text)


@patient(60)
@given(
    st.lists(INNOCENT.filter(lambda text: "History" not in text), max_size=3),
    st.sampled_from(["Held by: {}", "*Held by:* {}", "**Held by: {}**", "Held by: *{}*"]),
    st.sampled_from(["nobody", "Bob Brown"]),
    st.lists(INNOCENT, max_size=3, unique=True),
)
def test_what_people_write_around_the_line_is_no_false_alarm(shown, before, line, name, after):
    text = "\n\n".join([*before, line.format(name), *after])
    assert page.read(text) == (None if name == "nobody" else page.Hold(name))
    for formatting in FORMATTINGS:
        assert name in [said.strip("*") for said in claims(shown.lines(formatting, text))], (formatting, text)


# What may stand under the heading, above and below the entries. Each is written for the one or the other markup.
EXAMPLES = {
    "textile": [
        "<pre>\n* example\nh2. History\n</pre>",
        '<pre><code class="x">\n- x\n</code></pre>',
        "<!--\n* x\n-->",
    ],
    "markdown": ["```\n* example\n## History\n```", "~~~ text\n- x\n~~~", "<pre>\n* x\n\n</pre>", "<!--\n* x\n-->"],
}
FOOTERS = ["---\n\nImprint", "* * *\n\n* Imprint", "{{toc}}\n\nImprint", "Imprint", "Imprint:\n\n* a", ""]


@patient(60)
@given(
    st.sampled_from(FORMATTINGS),
    st.data(),
    st.lists(
        st.sampled_from(["2026-11-20 Bob: done", "2026-11-21 Bob: <pre> done", "done (ref 3f9c2a1b)"]), max_size=3
    ),
    st.sampled_from("*|-"),
    st.sampled_from(["first", "last"]),
)
def test_an_entry_is_seen_under_the_heading_and_nowhere_else(shown, formatting, data, items, mark, newest):
    markup = "textile" if formatting == "textile" else "markdown"
    above = data.draw(st.lists(st.sampled_from(EXAMPLES[markup]), max_size=2))
    below = data.draw(st.lists(st.sampled_from(EXAMPLES[markup]), max_size=1))
    # Before the first entry, nobody can tell whether a paragraph is to stand above the entries or below them.
    footer = data.draw(st.sampled_from(FOOTERS if items else FOOTERS[:3]))
    if markup == "markdown" or mark != "*":
        items = [item.replace("<pre> ", "") for item in items]
    form = {"*": "* {}", "-": "- {}", "|": "| {} |"}[mark]
    rows = [form.format(item) for item in items]
    if mark == "|":
        rows = ["|_. What |" if markup == "textile" else "| What |\n|---|", *rows]
    heading = "h2." if markup == "textile" else "##"
    text = "\n\n".join(
        ["Held by: nobody", f"{heading} History", *above, *(["\n".join(rows)] if rows else []), *below, footer]
    )
    rules = page.Rules(entry=form.format("{summary} (ref {ref})"), newest=newest)
    entry = page.render_entry(page.Hold("A", "x", "y", "11111111"), rules, until="", summary="the newest")

    lines = shown.lines(formatting, page.add_entry(text, entry, rules))
    (at,) = [number for number, (line, _) in enumerate(lines) if "the newest (ref 11111111)" in line]
    texts = [line for line, _ in lines]
    assert not {"pre", "code"} & {*lines[at][1]}, text
    # In Textile, `- …` is a paragraph.
    assert {"*": "li", "|": "td", "-": lines[at][1][-1]}[mark] in lines[at][1], (formatting, text)
    assert texts.index("History") < at
    assert not any(line.startswith("Imprint") for line in texts[:at]), text
