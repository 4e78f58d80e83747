"""The doctor finds on a real Redmine, ahead of time, what would fail on the day of a deploy; and writes nothing."""

import datetime
import email.utils
import http.server
import threading

import pytest

from saltext.deploytoken import doctor, errors, history, stores
from saltext.deploytoken import page as token_page
from saltext.deploytoken.config import parse
from tests.support.proxy import BEFORE, Answer, Fault, drop, html, redirect, replace

TEXT = "Held by: nobody\n\nh2. History\n"


@pytest.fixture
def page(redmine):
    return redmine.new_page(TEXT)


@pytest.fixture
def examine(redmine, tmp_path, loaders):
    """Examine as ``login``: the checks by name, and whether the doctor found the setup healthy."""

    def examine(page, login="alice", scratch=None, **more):
        key = tmp_path / "key"
        key.write_text(redmine.keys.get(login, "0" * 40))
        key.chmod(0o600)
        opts = loaders(deploytoken={"store": page, "api_key_file": str(key), **more}).opts
        try:
            checks, healthy = doctor.examine(opts, scratch)["checks"], True
        except errors.StoreError as exc:
            checks, healthy = exc.details["checks"], False
        assert redmine.keys.get(login, "0" * 40) not in repr(checks)
        assert not any("\n" in check["text"] for check in checks)
        found = {check["name"]: check for check in checks}
        assert len(found) == len(checks)
        assert healthy is all(check["ok"] is not False for check in checks)
        return found

    return examine


def failed(found):
    return [name for name, check in found.items() if check["ok"] is False]


def test_a_wiki_that_stops_to_answer_in_the_middle_costs_no_other_check(examine, proxy, page):
    proxy.faults([None, drop(BEFORE)])
    found = examine(proxy.at(page))

    assert found["edit"]["ok"] is None
    assert "does not answer" in found["edit"]["text"]
    assert found["page"]["ok"] is True


def test_a_healthy_setup_passes_every_check_and_is_only_read(examine, proxy, page, redmine):
    found = examine(proxy.at(page))

    assert failed(found) == []
    assert list(found) == [
        *("configuration", "key file", "server", "clock", "REST API", "key", "edit"),
        *("page", "heading", "versions", "name"),
        *("file server", "orchestration", "external pillar", "minions"),
    ]
    assert "Alice Adams" in found["key"]["text"]
    assert set(proxy.methods()) == {"GET"}
    assert redmine.read(page)["version"] == 1


def test_a_rejected_key_is_found_although_a_public_page_hides_it(examine, redmine):
    public = redmine.new_page(TEXT, project="open")

    for login in ("lou", "somebody"):
        found = examine(public, login, name="Alice")
        assert failed(found) == ["key", "versions"]
        assert found["page"]["ok"] is True
        assert "My account" in found["key"]["text"]


def test_a_rest_api_that_is_off_is_told_from_a_rejected_key(examine, page, redmine):
    with redmine.setting("rest_api_enabled", "0"):
        found = examine(page)

    assert found["REST API"]["ok"] is False
    assert "Enable REST web service" in found["REST API"]["text"]
    assert "key" not in found


@pytest.mark.parametrize(("login", "project"), [("rita", "ocds"), ("mallory", "open")])
def test_a_user_who_may_only_read_is_found_without_writing(examine, redmine, login, project):
    page = redmine.new_page(TEXT, project=project)

    found = examine(page, login)

    assert "edit" in failed(found)
    assert "may not edit wiki pages" in found["edit"]["text"]
    assert redmine.read(page)["version"] == 1


def test_a_closed_project_is_found(examine, redmine):
    page = redmine.new_page(TEXT, project="closed")
    with redmine.shut("closed", "closed"):
        found = examine(page)

    assert failed(found) == ["edit"]
    assert "closed" in found["edit"]["text"]


def test_an_administrators_key_may_edit(examine, page):
    assert examine(page, "boss")["edit"]["ok"] is True


def test_a_user_who_may_not_view_old_versions_is_found(examine, page):
    found = examine(page, "carol")

    assert failed(found) == ["versions"]
    assert "view wiki history" in found["versions"]["text"]


@pytest.mark.parametrize(
    ("text", "name", "ok"),
    [
        ("h2. History\n", "page", False),
        ("Held by: nobody\n\nHeld by: Bob\n\nh2. History\n", "page", False),
        ("Held by:\n\nh2. History\n", "page", False),
        ("Held by: nobody\n", "heading", None),
    ],
)
def test_a_page_of_another_form_is_found(examine, redmine, text, name, ok):
    assert examine(redmine.new_page(text))[name]["ok"] is ok


def test_a_missing_and_a_renamed_page_are_found(examine, redmine, page):
    assert "deploytoken.init" in examine(f"{page}_no_such")["page"]["text"]
    redmine.rename(page, "Doctor_renamed")
    assert "renamed" in examine(page)["page"]["text"]


def test_a_server_that_is_down_ends_the_examination(examine):
    found = examine("http://127.0.0.1:9/projects/ocds/wiki/Page")

    assert failed(found) == ["server"]
    assert "page" not in found


@pytest.mark.parametrize("fault", [html(), redirect("https://login.example.org/")], ids=repr)
def test_a_login_page_or_a_proxy_in_between_is_found(examine, proxy, page, fault):
    proxy.faults(lambda *_: fault)

    assert {"REST API", "page"} <= set(failed(examine(proxy.at(page), name="Alice")))


@pytest.mark.parametrize(("off", "ok", "text"), [(0, True, "0"), (-300, False, "ahead"), (300, False, "behind")])
def test_a_clock_that_differs_from_the_servers_is_found(examine, proxy, page, off, ok, text):
    then = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=off)

    def date(answer):
        answer.headers.append(("Date", email.utils.format_datetime(then, usegmt=True)))

    proxy.faults(lambda *_: replace(date))

    clock = examine(proxy.at(page))["clock"]
    assert clock["ok"] is ok
    assert text in clock["text"] or ok


def test_a_late_write_is_refused_on_the_scratch_page_and_only_tried_there(examine, redmine, proxy, page):
    scratch = redmine.new_page("try things here")

    found = examine(proxy.at(page), scratch=proxy.at(scratch))

    assert found["conflict"]["ok"] is True
    assert [request.path for request in proxy.log if request.method == "PUT"] == [
        f"{scratch[len(redmine.url) :]}.json"
    ]
    assert redmine.text(scratch) == "try things here"
    assert redmine.read(page)["version"] == 1


def test_a_server_that_accepts_late_writes_is_found(examine, redmine, proxy, page):
    scratch = redmine.new_page("try things here")
    # As of a gateway that rebuilds the body and loses the version.
    proxy.faults(Fault("accept", lambda handler, forward: Answer(204, [], b"")), only="PUT")

    found = examine(proxy.at(page), scratch=proxy.at(scratch))

    assert failed(found) == ["conflict"]
    assert "drops the version" in found["conflict"]["text"]


def test_a_protected_page_shows_when_the_scratch_page_is_written(examine, redmine, page):
    scratch = redmine.new_page("try things here")
    redmine.protect(scratch)

    assert failed(examine(page, scratch=scratch)) == ["conflict"]


def test_a_page_with_a_holders_line_is_never_written_to(examine, redmine, proxy, page):
    other = redmine.new_page("Held by: Bob\n")
    by_number = page.replace("/ocds/", "/1/")  # the token's page under another address

    for scratch in (page, by_number, page.replace("Deploy", "deploy"), other, f"{page}_no_such"):
        with pytest.raises(errors.Invalid, match=r"^scratch: "):
            examine(proxy.at(page), scratch=proxy.at(scratch))
    with pytest.raises(errors.Invalid, match=r"^scratch: .* is not a wiki page's address"):
        examine(proxy.at(page), scratch="http://[::1/projects/ocds/wiki/Scratch")
    assert set(proxy.methods()) == {"GET"}


def test_the_api_key_goes_to_no_other_host_for_a_scratch_page(examine, page):
    asked = []

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers)

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(errors.Invalid, match=r"^scratch: must be a page in the same Redmine"):
            examine(page, scratch=f"http://127.0.0.1:{server.server_address[1]}/projects/ocds/wiki/Scratch")
        server.shutdown()
    assert asked == []


def test_history_is_read_from_the_versions_that_redmine_kept(redmine, page):
    from saltext.deploytoken.token import Token

    opts = {"deploytoken": {"store": page, "api_key": redmine.key("alice"), "name": "Alice"}}
    with Token(parse(opts)) as token:
        ref = token.acquire("upgrade")["ref"]
        redmine.edit(page, redmine.text(page) + "\nA remark.\n")
        token.release("upgraded", ref=ref)
        redmine.edit(page, redmine.text(page).replace("nobody", "Bob"), "bob")
        redmine.edit(page, redmine.text(page).replace("Bob", "nobody"), "bob")
        found = token.history(20)

    assert [(hold["held_by"], hold["ended"], hold["ended_by"], hold["by_hand"]) for hold in found["holds"]] == [
        ("Bob", "by hand", redmine.name("bob"), True),
        ("Alice", "released", "Alice", False),
    ]
    assert found["holds"][1]["to"].endswith(" UTC")
    assert found["complete"] is True


def test_history_without_the_right_to_view_versions_says_which_right(redmine, page):
    redmine.edit(page, TEXT + "\nA remark.\n")
    wiki = stores.connect(parse({"deploytoken": {"store": page, "api_key": redmine.key("carol")}}))

    with pytest.raises(errors.StoreError, match="view wiki history"):
        history.past(history.versions(wiki, 10), token_page.DEFAULT)
