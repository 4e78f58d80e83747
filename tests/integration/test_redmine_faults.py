"""Each trap of a network and of Redmine, made on purpose between the token and a real Redmine."""

import json
import logging
import uuid

import pytest

from saltext.deploytoken import errors, page
from saltext.deploytoken.gate import live
from saltext.deploytoken.stores.base import Missing, Unanswered
from tests.support.places import TEXT, RedminePlace
from tests.support.proxy import (
    AFTER,
    BEFORE,
    Fault,
    FaultProxy,
    Hold,
    delay,
    drip,
    drop,
    duplicate,
    html,
    redirect,
    replace,
    status,
    truncate,
)
from tests.support.wait import until

#: The time-out of who has to be seen giving up: long enough for what else it asks of a busy machine.
SHORT = 3
#: A write that gets one of these is sent again, and its fate is then known.
UNANSWERED = [
    drop(BEFORE),
    drop(AFTER),
    *(status(code, when) for code in (500, 502, 503, 504, 408, 429) for when in (BEFORE, AFTER)),
    html(BEFORE),
    html(AFTER),
    delay(2 * SHORT, AFTER),
    drip(BEFORE),
    drip(AFTER),
    status(200, AFTER, "{}", "application/json"),
    # As Redmine answered a write before 4.1, and as anything in between may answer it.
    status(200, BEFORE),
]


@pytest.fixture
def place(redmine, proxy):
    """A page whose users come through the proxy."""
    place = RedminePlace(redmine)
    place.address = proxy.at(place.page)
    return place


@pytest.fixture
def alice(place, request):
    """With little patience only where the test's ``fault`` is that no answer comes."""
    fault = getattr(request.node, "callspec", None) and request.node.callspec.params.get("fault")
    with place.token("alice", timeout=SHORT if repr(fault).startswith(("delay", "drip")) else 30) as token:
        yield token


@pytest.fixture
def bob(place):
    """Comes past the proxy."""
    with RedminePlace.token(place, "bob", store=place.page) as token:
        yield token


def bodies(proxy):
    return [request.body for request in proxy.log if request.method == "PUT"]


def entries(place, ref):
    return page.entries(place.text(), ref)


def direct(redmine, page_, who="alice", **more):
    """The token of a page, without a proxy."""
    place = RedminePlace.__new__(RedminePlace)
    place.redmine, place.page, place.address = redmine, page_, page_
    return place.token(who, **more)


# A write without an answer


@pytest.mark.parametrize("fault", UNANSWERED, ids=repr)
def test_a_lost_answer_is_resolved_by_the_identical_write(place, proxy, alice, fault):
    proxy.faults([fault], only="PUT")
    held = alice.acquire("upgrade")
    assert alice.status()["ref"] == held["ref"]
    first, *more = bodies(proxy)
    assert set(more) == {first}
    assert held["version"] == 2

    proxy.faults([fault], only="PUT")
    entry = alice.release("done", held["ref"])["entry"]
    assert entries(place, held["ref"]) == [entry]
    assert len(place.versions()) == 3


def test_a_write_is_believed_when_redmine_before_4_1_answers_it_and_the_page_shows_it(place, proxy, alice):
    proxy.faults([status(200, AFTER)], only="PUT")
    ref = alice.acquire("upgrade")["ref"]
    assert proxy.methods() == ["GET", "PUT", "GET"]
    proxy.faults(lambda *_: status(200, AFTER), only="PUT")
    assert len(entries(place, alice.release("done", ref)["released"])) == 1
    assert len(place.versions()) == 3


def test_a_connection_that_ended_between_the_look_and_the_write_costs_nothing(place, proxy, alice):
    """Apache keeps an idle one for five seconds."""

    def close(answer):
        answer.headers.append(("Keep-Alive", "timeout=5"))

    proxy.faults([replace(close), drop(BEFORE)])
    assert alice.acquire("upgrade")["ref"] in place.text()
    assert proxy.methods() == ["GET", "PUT", "PUT"]
    assert proxy.log[1].connection != proxy.log[2].connection


def test_many_lost_answers_in_a_row_are_resolved(place, proxy, alice):
    proxy.faults([drop(BEFORE), status(502), drop(AFTER), html()], only="PUT")
    assert alice.acquire("upgrade")["ref"] in place.text()
    assert len(set(bodies(proxy))) == 1
    assert len(place.versions()) == 2


def test_a_write_that_lands_after_its_client_gave_up_changes_nothing(place, proxy, bob):
    ghost = Hold()
    proxy.faults([ghost], only="PUT")
    with place.token("alice", timeout=SHORT) as alice:
        ref = alice.acquire("upgrade")["ref"]
        alice.release("done", ref)
    other = bob.acquire("next")["ref"]
    ghost.wait()
    ghost.release()
    proxy.settled()
    assert proxy.log[1].applied == [409]
    assert bob.status()["ref"] == other
    assert len(entries(place, ref)) == 1


def test_a_write_without_an_answer_until_the_deadline_is_doubt_and_may_appear(place, proxy):
    ghosts = []

    def hold(*_):
        ghosts.append(Hold())
        return ghosts[-1]

    proxy.faults(hold, only="PUT")
    with place.token("alice", timeout=SHORT, deadline=SHORT) as alice:
        with pytest.raises(errors.InDoubt, match=r"may still appear.*`salt-run deploytoken\.status`") as caught:
            alice.acquire("upgrade")
        ref = caught.value.details["ref"]
        assert caught.value.code == 5
        assert alice.status()["held_by"] is None
        ghosts[-1].release()
        until(lambda: alice.status()["ref"] == ref, what="the ghost to land")
        for ghost in ghosts:
            ghost.release()
        proxy.settled()
        proxy.faults([])
        # What the person was told to do.
        assert alice.release("not used", ref)["released"] == ref
    assert [ref in text.splitlines()[2] for text in place.versions()] == [False, True, False]


def test_a_wiki_that_only_drips_is_doubt_by_the_deadline_and_can_be_asked_again(place, proxy):
    proxy.faults(lambda *_: drip(AFTER), only="PUT")
    with place.token("alice", timeout=SHORT, deadline=SHORT) as alice:
        with pytest.raises(errors.InDoubt, match=f"not within {SHORT} seconds") as caught:
            alice.acquire("upgrade")  # or it would drip for ever
        assert len(set(bodies(proxy))) == 1
        proxy.faults([])
        assert alice.status()["ref"] == caught.value.details["ref"]


def test_a_release_without_an_answer_is_doubt_and_can_be_said_again(place, proxy):
    with place.token("alice", deadline=1) as alice:
        ref = alice.acquire("upgrade")["ref"]
        proxy.faults(lambda *_: drop(AFTER), only="PUT")
        with pytest.raises(errors.InDoubt, match=ref):
            alice.release("done", ref)
        proxy.faults([])
        entry = alice.release("done", ref)["entry"]
    assert entries(place, ref) == [entry]


@pytest.mark.parametrize("when", [BEFORE, AFTER])
def test_somebody_who_overtakes_a_lost_write_holds_the_token(place, proxy, alice, bob, when):
    def overtaken(_method, _path, n):
        if n == 2:
            if when == AFTER:
                bob.take_over("in the way", bob.status()["ref"])
            else:
                bob.acquire("faster")
        return drop(when) if n == 1 else None

    proxy.faults(overtaken, only="PUT")
    # After a takeover, hers has been there, and has its entry: it is not taken again under the same ref.
    with pytest.raises(errors.NotYours if when == AFTER else errors.Held, match="Bob holds the token"):
        alice.acquire("upgrade")
    assert bob.status()["held_by"] == "Bob"
    assert place.text().count("taken over by") == (when == AFTER)


def test_an_edit_elsewhere_after_a_lost_answer_is_not_a_lost_token(place, proxy, alice):
    def edited(_method, _path, n):
        if n == 2:
            place.edit(lambda text: text + "A remark.\n")
        return drop(AFTER) if n == 1 else None

    proxy.faults(edited, only="PUT")
    taken = alice.acquire("upgrade")
    assert taken["taken"] is True  # by this very command, which gives it back when it is interrupted
    ref = taken["ref"]
    proxy.faults(edited, only="PUT")
    alice.release("done", ref)
    assert len(entries(place, ref)) == 1
    assert place.text().count("A remark.\n") == 2
    assert len(place.versions()) == 5


def test_a_conflict_and_then_no_answer_is_doubt(place, proxy):
    """A proxy sends the PUT twice, somebody saves in between, and then Redmine is gone: it may be ours."""

    def between(handler, forward):
        forward()
        place.edit(lambda text: text + "A remark.\n")
        proxy.faults(lambda *_: drop(BEFORE))
        return forward()

    fault = duplicate()
    fault._act = between
    with place.token("alice", deadline=1) as alice:
        proxy.faults([fault], only="PUT")
        with pytest.raises(errors.InDoubt):
            alice.acquire("upgrade")
    assert proxy.log[1].applied == [204, 409]
    assert "Held by: Alice" in place.text()


def test_a_duplicated_write_is_one_write(place, proxy, alice):
    proxy.faults(lambda *_: duplicate(), only="PUT")
    ref = alice.acquire("upgrade")["ref"]
    entry = alice.release("done", ref)["entry"]
    assert entries(place, ref) == [entry]
    assert len(place.versions()) == 3


def test_a_refusal_after_a_lost_answer_is_doubt(place, proxy, alice):
    proxy.faults([drop(AFTER), status(403)], only="PUT")
    with pytest.raises(errors.InDoubt):
        alice.acquire("upgrade")


def test_a_waiter_survives_looks_without_an_answer(place, proxy, bob, monkeypatch):
    monkeypatch.setattr("saltext.deploytoken.token.POLL", 0.05)
    ref = bob.acquire("long work")["ref"]
    told = []

    def notify(event, data):
        told.append((event, data["held_by"]))
        if len(told) == 1:
            proxy.faults([status(502), drop(BEFORE), truncate()])
        if len(told) == 4:
            bob.release("done", ref)

    with place.token("alice", notify) as alice:
        assert alice.acquire("next", wait=60)["held_by"] == "Alice"
    assert told == [*[("waiting", "Bob")] * 4, ("acquired", "Alice")]


def test_a_waiter_that_gets_no_answer_from_the_start_is_told_at_once(place, proxy, alice):
    proxy.faults(lambda *_: status(502))
    with pytest.raises(Unanswered):
        alice.acquire("next", wait=60)
    assert proxy.methods() == ["GET"]


# A read without an answer, or with another one than Redmine's


@pytest.mark.parametrize(
    "fault", [drop(BEFORE), status(500), status(503), truncate(), delay(2 * SHORT, AFTER), drip()], ids=repr
)
def test_a_look_without_an_answer_is_refused_at_once_without_hidden_retries(place, proxy, alice, fault):
    proxy.faults([fault])
    with pytest.raises(Unanswered) as caught:
        alice.acquire("upgrade")
    assert caught.value.code == 6
    assert proxy.methods() == ["GET"]
    assert place.text() == TEXT


@pytest.mark.parametrize(
    "fault",
    [
        html(),
        status(200, body="{}", content_type="application/json"),
        status(200, body="[]", content_type="application/json"),
        status(200, body='{"wiki_page": []}', content_type="application/json"),
        status(200, body='{"wiki_page": {"text": "Held by: nobody", "version": "3"}}'),
        status(200, body='{"wiki_page": {"text": "Held by: nobody", "version": true}}'),
        status(200, body='{"wiki_page": {"text": null, "version": 3}}'),
        status(204),
    ],
    ids=lambda fault: repr(fault),
)
def test_an_answer_that_is_not_redmines_is_refused(place, proxy, alice, fault):
    proxy.faults([fault])
    with pytest.raises(errors.StoreError) as caught:
        alice.acquire("upgrade")
    assert "\n" not in str(caught.value)
    assert proxy.methods() == ["GET"]


def test_a_look_that_answers_less_text_takes_nothing(place, proxy, alice):
    def cut(answer):
        found = json.loads(answer.body)
        found["wiki_page"]["text"] = "h1. Deploy"
        answer.body = json.dumps(found).encode()

    proxy.faults([replace(cut)])
    with pytest.raises(errors.StoreError, match="no line 'Held by"):
        alice.acquire("upgrade")
    assert place.text() == TEXT


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_redirect_is_not_followed_and_the_key_stays_here(redmine, place, proxy, alice, code, method):
    with FaultProxy(redmine.url) as other:
        proxy.faults(lambda *_: redirect(f"{other.url}/login?back=1", code), only=method)
        with pytest.raises(errors.StoreError, match=f"redirects to {other.url}/login: "):
            alice.acquire("upgrade")
        assert other.log == []
    assert place.text() == TEXT


def test_redmine_that_is_down_is_one_line(redmine, place):
    with direct(redmine, place.page) as alice, redmine.stopped(), pytest.raises(Unanswered, match="is it up"):
        alice.acquire("upgrade")


# What Redmine refuses


def test_a_page_deleted_in_the_meantime_is_not_a_token_that_was_taken(redmine, place, proxy, alice):
    def deleted(*_):
        if "DELETE" not in done:
            done.append("DELETE")
            assert redmine.request("DELETE", f"{place.page}.json")[0] in (200, 204)

    done = []
    proxy.faults(deleted, only="PUT")
    with pytest.raises(errors.StoreError, match="was missing, and Redmine has made a new page of this write"):
        alice.acquire("upgrade")
    assert bodies(proxy)
    assert [request.applied for request in proxy.log if request.method == "PUT"] == [[201]]


@pytest.mark.parametrize("path", ["projects/ocds/wiki/No_such_page", "projects/nosuch/wiki/Page"])
def test_a_missing_page_is_never_created(redmine, path):
    missing = f"{redmine.url}/{path}"
    with direct(redmine, missing) as alice:
        for refused in (alice.status, lambda: alice.acquire("upgrade"), lambda: alice.release("done", "00000000")):
            with pytest.raises(Missing, match=r"does not exist.*deploytoken\.init"):
                refused()
    assert redmine.get(f"{missing}.json")[0] == 404


def test_an_init_without_its_project_does_not_say_to_run_init(redmine):
    with direct(redmine, f"{redmine.url}/projects/nosuch/wiki/Page") as alice:
        with pytest.raises(
            errors.StoreError, match=r"not created: no project 'nosuch'; check deploytoken\.store"
        ) as caught:
            alice.store.create(TEXT, "init")
    assert "deploytoken.init" not in str(caught.value)


def test_an_init_that_comes_late_leaves_the_hold_of_whoever_was_faster(redmine, proxy):
    page_ = f"{redmine.url}/projects/ocds/wiki/Init_{uuid.uuid4().hex}"

    def faster(handler, forward):
        assert redmine.request("PUT", f"{page_}.json", "boss", {"wiki_page": {"text": TEXT}})[0] == 201
        with direct(redmine, page_, "bob") as bob:
            bob.acquire("upgrade")
        return forward()

    proxy.faults([Fault("faster", faster)], only="PUT")
    with direct(redmine, proxy.at(page_)) as alice:
        with pytest.raises(errors.StoreError, match="created by somebody else"):
            alice.store.create(TEXT, "init")
        assert alice.status()["held_by"] == "Bob"
        assert alice.store.create(TEXT, "init") is False


def test_a_renamed_page_is_said_to_be_renamed(redmine, place):
    renamed = redmine.rename(place.page, f"{place.page.rsplit('/', 1)[1]}_renamed")
    with direct(redmine, place.page) as alice, pytest.raises(errors.StoreError, match="the page was renamed"):
        alice.acquire("upgrade")
    assert redmine.text(renamed) == TEXT


def test_a_wrong_key_that_reads_a_public_page_cannot_take_the_token(redmine):
    public = redmine.new_page(TEXT, "open")
    with direct(redmine, public, api_key="0" * 40) as nobody:
        assert nobody.status()["held_by"] is None
        with pytest.raises(errors.StoreError, match="rejects the API key"):
            nobody.acquire("upgrade")
    assert redmine.text(public) == TEXT


def test_a_rejected_key_is_told_by_every_command_and_to_the_gate(redmine, place, tmp_path):
    missing = f"{redmine.url}/projects/open/wiki/Init_{uuid.uuid4().hex}"
    with direct(redmine, place.page, "lou") as lou, direct(redmine, missing, "lou") as new:
        for refused in (
            lou.status,
            lambda: lou.acquire("upgrade", wait=60),
            lambda: lou.release("done", "aaaaaaaa"),
            lambda: lou.take_over("urgent", "aaaaaaaa"),
            lambda: lou.history(10),
            lambda: lou.store.create(TEXT, "init"),
            lambda: new.store.create(TEXT, "init"),  # a public project's, where only the write is refused
        ):
            with pytest.raises(errors.StoreError, match="rejects the API key"):
                refused()
    assert redmine.get(f"{missing}.json")[0] == 404
    assert place.versions() == [TEXT]
    opts = {"cachedir": str(tmp_path), **place.options("lou")}
    assert "rejects the API key" in live.answer(opts, "web1", {"nonce": "1", "ref": "aaaaaaaa"})["error"]


def test_a_key_that_is_rejected_in_the_middle_is_told(place, proxy, alice):
    """Somebody resets it, or locks the user."""
    ref = alice.acquire("upgrade")["ref"]
    proxy.faults([status(401)], only="PUT")
    with pytest.raises(errors.StoreError, match="rejects the API key"):
        alice.release("done", ref)
    proxy.faults([drop(AFTER), status(401)], only="PUT")
    with pytest.raises(errors.InDoubt, match="rejects the API key"):
        alice.release("done", ref)
    assert len(entries(place, alice.release("done", ref)["released"])) == 1


@pytest.mark.parametrize(
    ("who", "message"),
    [("rita", "may not do this"), ("mallory", "may not do this"), ("lou", "rejects the API key")],
)
def test_who_may_not_write_is_told_so(redmine, place, who, message):
    with direct(redmine, place.page, who) as token, pytest.raises(errors.StoreError, match=message):
        token.acquire("upgrade")
    assert place.text() == TEXT


def test_a_protected_page_is_a_refusal(redmine, place):
    redmine.protect(place.page)
    with direct(redmine, place.page) as alice, pytest.raises(errors.StoreError, match="not locked"):
        alice.acquire("upgrade")
    assert place.text() == TEXT


@pytest.mark.parametrize(("project", "how"), [("closed", "closed"), ("archived", "archived")])
def test_a_project_that_is_shut_is_a_refusal(redmine, project, how):
    shut = redmine.new_page(TEXT, project)
    with direct(redmine, shut) as alice:
        with redmine.shut(project, how), pytest.raises(errors.StoreError, match="may not do this"):
            alice.acquire("upgrade")
        assert alice.acquire("upgrade")["held_by"] == "Alice"


def test_a_rest_api_that_is_off_is_a_refusal(redmine, place):
    with direct(redmine, place.page) as alice:
        with redmine.setting("rest_api_enabled", "0"), pytest.raises(errors.StoreError, match="enable the REST API"):
            alice.acquire("upgrade")
        assert alice.acquire("upgrade")["held_by"] == "Alice"


def test_who_may_not_see_versions_can_take_and_release_under_lost_answers(place, proxy):
    with place.token("carol") as carol:
        proxy.faults([drop(AFTER)], only="PUT")
        ref = carol.acquire("upgrade")["ref"]
        proxy.faults([drop(AFTER)], only="PUT")
        assert carol.release("done", ref)["entry"] in place.text()


def test_who_may_not_see_versions_is_left_in_doubt_where_nothing_else_tells(place, proxy):
    def overtaken(_method, _path, n):
        if n == 2:
            place.edit(lambda _: TEXT + "A remark.\n")
        return drop(AFTER) if n == 1 else None

    with place.token("carol") as carol:
        ref = carol.acquire("upgrade")["ref"]
        proxy.faults(overtaken, only="PUT")
        with pytest.raises(errors.InDoubt, match="to view wiki history"):
            carol.release("done", ref)


# What goes over the line


def test_an_acquire_is_two_requests_on_one_connection(place, proxy, alice):
    ref = alice.acquire("upgrade")["ref"]
    assert proxy.methods() == ["GET", "PUT"]
    alice.release("done", ref)
    assert proxy.methods() == ["GET", "PUT"] * 2
    assert len({request.connection for request in proxy.log}) == 1


def test_without_a_configured_name_it_is_the_key_owners(redmine, place, proxy):
    with place.token("alice", name=None) as alice:
        assert alice.acquire("upgrade")["held_by"] == redmine.name("alice")
    assert proxy.methods() == ["GET", "GET", "PUT"]


def test_every_write_has_the_version_as_a_number_where_redmine_looks(place, proxy, alice):
    alice.release("done", alice.acquire("upgrade")["ref"])
    versions = [json.loads(body)["wiki_page"]["version"] for body in bodies(proxy)]
    assert versions == [1, 2]


def test_the_key_is_in_the_header_and_nowhere_else(redmine, place, proxy, alice, caplog):
    key = redmine.key("alice")
    caplog.set_level(logging.DEBUG)
    seen = [repr(alice.config), repr(alice.config.rules)]
    faults = [drop(BEFORE), status(500), html(), redirect(f"{redmine.url}/login"), truncate(), status(401)]
    for only in ("GET", "PUT"):
        for fault in faults:
            proxy.faults([fault], only=only)
            try:
                seen.append(str(alice.acquire("upgrade")))
            except errors.Error as exc:
                seen.append(f"{exc!r} {exc} {exc.details}")
    seen += [request.path for request in proxy.log] + [request.body.decode() for request in proxy.log]
    seen += [record.getMessage() for record in caplog.records] + place.versions()
    assert not [text for text in seen if key in text]
    assert {request.headers["X-Redmine-API-Key"] for request in proxy.log} == {key}
