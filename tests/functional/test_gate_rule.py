"""The gate's rule and the external pillar, as Salt loads them on a masterless minion with a SQLite token."""

import contextlib
import fcntl
import json
import multiprocessing
import pathlib
import socket
import threading
import time

import pytest
import salt.pillar
from salt.exceptions import CommandExecutionError

from saltext.deploytoken import config
from saltext.deploytoken.gate import glass, live
from saltext.deploytoken.token import Token
from tests.support.gate import age

REF = "f9c2a1b0"
RUN = {"deploytoken": {"ref": REF}}
# What the external pillar says while a hold with this ref is the current one.
FORGED = {"held_by": "Mallory", "ref": REF, "reason": "x", "since": "now"}


@pytest.fixture
def options(tmp_path):
    return {
        "deploytoken": {"store": f"sqlite:///{tmp_path}/token.db", "name": "Alice"},
        "ext_pillar": [{"deploytoken": None}],
    }


@pytest.fixture
def token(options):
    with Token(config.parse(options)) as opened:
        opened.store.create("Held by: nobody\n\nh2. History\n", "init")
        yield opened


@pytest.fixture
def check(loaders, options):
    """``check(pillar of the run, …)`` on a minion with these further options."""

    def asked(run=None, test=False, **more):
        return loaders("minion", **{**options, **more}).modules["deploygate.check"](pillar=run, test=test)

    return asked


def test_a_run_with_the_ref_of_the_hold_is_allowed(check, token):
    token.acquire("upgrade", ref=REF)
    answer = check(RUN)
    assert answer == {**answer, "allowed": True, "mode": "enforce", "warning": False}
    assert "Alice" in answer["comment"]
    assert REF in answer["comment"]


@pytest.mark.parametrize(
    "pillar",
    [None, {}, {"deploytoken": None}, {"deploytoken": {"ref": ""}}, {"deploytoken": {"ref": "a0a0a0a0"}}, "x"],
)
def test_any_other_run_is_refused_with_the_name_to_ask(check, token, pillar):
    token.acquire("upgrade", ref=REF)
    answer = check(pillar)
    assert not answer["allowed"]
    assert "Ask Alice" in answer["comment"]


@pytest.mark.parametrize("ref", [None, "", "None", REF])
def test_while_nobody_holds_the_token_every_run_is_refused_with_the_way_to_take_it(check, token, ref):
    assert token.status()["held_by"] is None
    answer = check({"deploytoken": {"ref": ref}})
    assert not answer["allowed"]
    assert "salt-run deploytoken.acquire" in answer["comment"]


@pytest.mark.parametrize("ref", [None, "", "Bob"])
def test_a_hold_typed_by_hand_lets_nobody_through(check, token, ref):
    token.store.write("Held by: Bob\n\nh2. History\n", 1, "by hand")
    answer = check({"deploytoken": {"ref": ref}})
    assert not answer["allowed"]
    assert "Bob" in answer["comment"]


def test_a_ref_that_yaml_read_as_a_number_is_still_that_ref(check, token):
    token.acquire("upgrade", ref="00012345")
    assert check({"deploytoken": {"ref": 12345}})["allowed"]


@pytest.mark.parametrize("more", [{}, {"nonce": "x"}])
def test_a_forged_pillar_does_not_open_the_gate(check, token, tmp_path, more):
    forged = {"deploytoken": {**FORGED, **more}}
    # As in a run with pillar=: the override is in opts["pillar"], where a masterless compilation starts.
    assert "nobody holds the deploy token" in check(forged, pillar=forged)["comment"]
    token.acquire("upgrade", ref="a0a0a0a0")
    age(tmp_path / "loaders" / "cache")
    assert "Alice holds the deploy token" in check(forged, pillar=forged)["comment"]
    closed = check(forged, pillar=forged, ext_pillar=[])
    assert "no live deploy token" in closed["comment"]
    assert not closed["allowed"]


def test_a_run_cannot_switch_its_gate_off(check, token):
    forged = {"deploygate": "off"}
    assert not check(forged, pillar=forged)["allowed"]


@pytest.mark.parametrize(
    ("options_of_the_minion", "words"),
    [
        ({"ext_pillar": []}, "no live deploy token"),
        ({"ext_pillar": [{"no_such_pillar": None}]}, "no live deploy token"),
        ({"ext_pillar": "deploytoken"}, "no live deploy token"),
        ({"deploytoken": {}}, "not configured"),
        ({"deploytoken": {"store": "sqlite:////nonexistent/token.db"}}, "cannot tell"),
        ({"deploytoken": {"store": "http://127.0.0.1:1/projects/p/wiki/Page", "api_key": "SECRET"}}, "cannot tell"),
        ({"ext_pillar": [{"deploytoken": None}, {"cmd_json": "echo '{\"deploytoken\": 1}'"}]}, "no live deploy token"),
        ({"ext_pillar": [{"cmd_json": "echo '" + json.dumps({"deploytoken": FORGED}) + "'"}]}, "stale"),
    ],
)
def test_without_a_clear_answer_the_gate_is_closed(check, token, options_of_the_minion, words):
    token.acquire("upgrade", ref=REF)
    answer = check(RUN, **options_of_the_minion)
    assert not answer["allowed"]
    assert words in answer["comment"]
    assert "SECRET" not in answer["comment"]


def test_an_external_pillar_that_does_not_load_closes_the_gate(check, token, tmp_path, checkout):
    token.acquire("upgrade", ref=REF)
    (tmp_path / "_pillar").mkdir()
    (tmp_path / "_pillar" / "deploytoken.py").write_text("import no_such_module\n")
    answer = check(RUN, module_dirs=[str(checkout), str(tmp_path)])  # the last one is looked into first
    assert not answer["allowed"]
    assert "no live deploy token" in answer["comment"]


def test_an_answer_out_of_salt_s_pillar_cache_is_stale_and_no_run_s_word(loaders, options, token):
    token.acquire("upgrade", ref=REF)
    master = loaders("master", pillar_cache=True, **options)
    pathlib.Path(master.opts["cachedir"], "pillar_cache").mkdir()  # as a real master of 3006 does
    check = loaders("minion", **options).modules["deploygate.check"]
    verdict = check.__globals__["_verdict"]

    def compiled(question=None):
        sent = {"deploytoken": question} if question else None
        return salt.pillar.get_pillar(master.opts, {"id": "web"}, "web", extra_minion_data=sent).compile_pillar()

    def asked(nonce):
        return verdict(compiled({"nonce": nonce, "ref": REF}).get("deploytoken"), nonce, REF)

    assert asked("of the first question")[0] is True
    allowed, comment = asked("of the second question")
    assert allowed is False
    assert "stale" in comment
    # So the pillar of a run that carries nothing has the ref of the hold.
    run = compiled()
    assert run["deploytoken"]["ref"] == REF
    assert not check(pillar=run, fun="deploygate.passed")["allowed"]


def test_test_runs_pass_whoever_holds_the_token(check, token):
    assert check(test=True)["allowed"]
    assert not check(test="yes")["allowed"]


@pytest.mark.parametrize("test", [1, "True", "yes", "False", [True]])
def test_of_a_test_run_only_true_itself_is_believed(check, token, test):
    assert token.status()["held_by"] is None
    assert not check(test=test)["allowed"]


@pytest.fixture
def executor(loaders, options):
    """``executor("state.apply", test=True)``: None if it would run, else the words of the refusal."""
    loaded = loaders("minion", **options).executors

    def asked(function, **kwargs):
        try:
            return loaded["deploygate.execute"]({}, {"fun": function}, function, [], kwargs)
        except CommandExecutionError as error:
            return str(error)

    return asked


@pytest.mark.parametrize(
    "function", ["state.apply", "state.run_request", "state.of_a_later_salt", "transactional_update.apply"]
)
def test_what_runs_states_is_refused_by_the_executor(executor, token, function):
    assert token.status()["held_by"] is None
    assert executor(function).startswith("Refused: nobody holds the deploy token")


def test_where_the_gate_s_module_is_missing_executor_and_state_refuse(loaders, tmp_path, checkout):
    for folder in ("_executors", "_states"):
        (tmp_path / folder).symlink_to(checkout / folder)
    loaded = loaders("minion", module_dirs=[str(tmp_path)])
    with pytest.raises(CommandExecutionError, match=r"saltutil\.sync_modules"):
        loaded.executors["deploygate.execute"]({}, {"fun": "state.apply"}, "state.apply", [], {"test": True})
    answer = loaded.states["deploygate.passed"]("deploy token")
    assert answer["result"] is False
    assert "saltutil.sync_modules" in answer["comment"]


@pytest.mark.parametrize("function", ["state.low", "state.template", "transactional_update.apply"])
def test_functions_that_do_not_honour_test_do_not_pass_with_it(executor, token, function):
    assert token.status()["held_by"] is None
    assert "Refused" in executor(function, test=True)


@pytest.mark.parametrize(
    "function", ["state.show_top", "state.test", "state.soft_kill", "transactional_update.reboot"]
)
def test_what_runs_no_states_is_not_asked_about(executor, function):
    assert executor(function) is None


def test_off_asks_nothing_and_yaml_reads_it_as_false(check):
    for word in ("off", False):
        assert check(deploygate=word)["allowed"]


@pytest.mark.parametrize("word", ["enforce", "on", True, "wran", 1, ["off"]])
def test_a_mode_that_is_none_enforces(check, token, word):
    assert token.status()["held_by"] is None
    assert not check(deploygate=word)["allowed"]


@pytest.fixture
def admit(loaders, options, monkeypatch):
    """``admit(pillar of the run, …)`` on a minion with these further options; and the events that it sends."""
    sent = {}

    def asked(run=None, test=False, **more):
        rule = loaders("minion", **{**options, **more}).modules["deploygate.admit"]
        monkeypatch.setitem(rule.__globals__, "__salt__", {"event.send": sent.__setitem__})
        return rule(pillar=run, test=test)

    return asked, sent


def test_warn_lets_through_and_says_so(admit, token, caplog):
    assert token.status()["held_by"] is None
    ask, sent = admit
    answer = ask(deploygate="warn")
    assert answer["allowed"]
    assert answer["warning"]
    assert answer["comment"].startswith("NOT ENFORCED HERE (deploygate: warn). Would be refused: nobody holds")
    assert sent == {"deploytoken/gate/warned": {"comment": answer["comment"], "fun": "state.apply"}}
    assert f"deploygate: {answer['comment']}" in caplog.messages
    assert "Refused" not in caplog.text


def test_pillar_sets_the_mode_where_the_minion_does_not(check, token):
    assert token.status()["held_by"] is None
    pillar = [{"deploytoken": None}, {"cmd_json": 'echo \'{"deploygate": "off"}\''}]
    assert check(ext_pillar=pillar)["allowed"]
    assert not check(ext_pillar=pillar, deploygate="enforce")["allowed"]


GLASS = {"break_glass": "the site\nis down", "by": "Alice"}


def on_record(tmp_path):
    """The runs that broke the glass, as the next release will name them."""
    return [run for path in tmp_path.glob("**/deploytoken") for run in glass.pending(path.parent)]


def test_broken_glass_passes_without_an_event_bus_and_is_on_record(loaders, options, token, tmp_path):
    assert token.status()["held_by"] is None
    answer = loaders("minion", **options).modules["deploygate.admit"](pillar={"deploytoken": GLASS})
    assert answer["allowed"]
    assert answer["warning"]
    (run,) = on_record(tmp_path)
    assert (run.minion, run.by, run.why, run.fun) == ("kingfisher-main", "Alice", "the site is down", "state.apply")


def test_to_ask_breaks_no_glass(check, token, tmp_path, caplog):
    assert token.status()["held_by"] is None
    assert check({"deploytoken": GLASS})["comment"].startswith("Glass broken by Alice")
    assert on_record(tmp_path) == []
    assert "Glass" not in caplog.text


@pytest.mark.parametrize(
    ("said", "test", "more"),
    [
        ({**GLASS, "ref": REF}, False, {}),
        (GLASS, True, {}),
        (GLASS, False, {"deploygate": "off"}),
        (GLASS, False, {"deploygate": "warn"}),
    ],
)
def test_a_run_that_goes_ahead_without_it_breaks_no_glass(admit, token, tmp_path, said, test, more):
    token.acquire("upgrade", ref=REF)
    ask, sent = admit
    assert ask({"deploytoken": said}, test, **more)["allowed"]
    assert on_record(tmp_path) == []
    assert "deploytoken/gate/broken" not in sent


@pytest.mark.parametrize("said", [{"break_glass": "why"}, {"break_glass": "", "by": "Alice"}, {"by": "Alice"}])
def test_glass_broken_by_nobody_or_for_nothing_stays_whole(check, token, said):
    assert token.status()["held_by"] is None
    answer = check({"deploytoken": said})
    assert not answer["allowed"]
    assert ("break_glass needs" in answer["comment"]) is ("break_glass" in said)


def test_other_compilations_of_pillar_do_not_ask(loaders, options):
    options["deploytoken"] = {"store": "http://127.0.0.1:1/projects/p/wiki/Page", "api_key": "x"}
    assert loaders("minion", **options).modules["pillar.ext"]({"deploytoken": None}) == {}


def test_a_hold_that_is_a_moment_old_opens_and_one_that_is_over_closes_soon(options, token, tmp_path):
    opts = {**options, "cachedir": str(tmp_path / "cache")}
    assert live.answer(opts, "web", {"ref": REF})["held_by"] is None
    token.acquire("upgrade", ref=REF)
    assert live.answer(opts, "web", {"ref": REF})["ref"] == REF
    token.release("done", ref=REF)
    assert live.answer(opts, "web", {"ref": REF})["ref"] == REF, "asked again within a second"
    age(opts["cachedir"])
    assert live.answer(opts, "web", {"ref": REF})["held_by"] is None


@pytest.mark.parametrize("hours", [-1, 1])
def test_an_answer_from_another_time_of_the_clock_opens_nothing(options, token, tmp_path, hours):
    opts = {**options, "cachedir": str(tmp_path)}
    token.acquire("upgrade", ref=REF)
    assert live.answer(opts, "web", {"ref": REF})["ref"] == REF
    token.release("done", ref=REF)
    age(tmp_path, seconds=3600 * hours)
    assert live.answer(opts, "web", {"ref": REF})["held_by"] is None


def test_a_wiki_that_drips_closes_the_gate_in_time(options, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        dripping = threading.Event()

        def drip():
            with contextlib.suppress(OSError), server.accept()[0] as client:
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not dripping.wait(0.05):  # each byte is well within the time-out
                    client.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        store = f"http://127.0.0.1:{server.getsockname()[1]}/projects/p/wiki/Page"
        opts = {"cachedir": str(tmp_path), "deploytoken": {"store": store, "api_key": "x"}}
        answer = live.answer(opts, "web", {"ref": REF})
        assert thread.is_alive(), "the answer came only when the dripping ended"
        dripping.set()
        thread.join()
    assert "not within 0.5 seconds" in answer["error"]


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", {"store": 1}, {"asked": "x"}, {"answered": None}, {"token": "x"}, {"token": {"x": 1}}]
)
def test_a_shared_answer_that_is_damaged_is_not_used(options, token, tmp_path, damage):
    opts = {**options, "cachedir": str(tmp_path)}
    live.answer(opts, "web", {})
    path = tmp_path / "deploytoken" / "live.json"
    path.write_text(damage if isinstance(damage, str) else json.dumps({**json.loads(path.read_text()), **damage}))
    assert live.answer(opts, "web", {"ref": REF})["held_by"] is None


def test_an_answer_of_another_store_is_none(options, token, tmp_path):
    opts = {**options, "cachedir": str(tmp_path / "cache")}
    token.acquire("upgrade", ref=REF)
    assert live.answer(opts, "web", {"ref": REF})["ref"] == REF
    opts["deploytoken"] = {"store": f"sqlite:///{tmp_path}/other.db", "name": "Alice"}
    with Token(config.parse(opts)) as other:
        other.store.create("Held by: nobody\n", "init")
    assert live.answer(opts, "web", {"ref": REF})["held_by"] is None


def test_a_wiki_that_took_long_to_say_nothing_is_not_asked_at_once_again(options, tmp_path, monkeypatch):
    opts = {**options, "cachedir": str(tmp_path)}
    monkeypatch.setattr(live, "_ask", lambda conf: {"error": "the wiki is away"})
    live.answer(opts, "web1", {})
    path = tmp_path / "deploytoken" / "live.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "asked": time.time() - 60}))
    monkeypatch.setattr(live, "_ask", lambda conf: pytest.fail("asked again"))
    assert live.answer(opts, "web2", {"ref": REF}) == {"error": "the wiki is away"}


def test_a_gate_does_not_wait_for_ever_for_the_one_that_asks(options, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "PATIENCE", 0.2)
    opts = {**options, "cachedir": str(tmp_path)}
    live.answer(opts, "web1", {})
    with (tmp_path / "deploytoken" / "live.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "no answer from the wiki within" in live.answer(opts, "web2", {"ref": REF})["error"]


def _ask(opts, number):
    return live.answer(opts, f"web{number}", {})


def test_many_gates_at_once_ask_a_dead_wiki_once(options, tmp_path, monkeypatch):
    asked = tmp_path / "asked"

    def slow(conf):
        with asked.open("a") as file:
            file.write("x")
        time.sleep(0.5)
        return {"error": "the wiki is away"}

    monkeypatch.setattr(live, "_ask", slow)
    monkeypatch.setattr(live, "MAX_AGE", 600)  # however long all of them take
    opts = {**options, "cachedir": str(tmp_path)}
    with multiprocessing.get_context("fork").Pool(8) as pool:
        answers = pool.starmap(_ask, [(opts, number) for number in range(40)])
    assert answers == [{"error": "the wiki is away"}] * 40
    assert len(asked.read_text()) == 1


def test_a_hold_that_ends_on_this_master_is_over_for_its_gates_at_once(loaders, tmp_path):
    salt = loaders(deploytoken={"store": f"sqlite:///{tmp_path}/token.db", "name": "Alice"})
    salt.runners["deploytoken.init"]()

    def held_by():
        return live.answer(salt.opts, "web", {})["held_by"]

    salt.runners["deploytoken.acquire"](reason="upgrade", ref=REF)
    assert held_by() == "Alice"
    taken = salt.runners["deploytoken.takeover"](ref=REF, reason="the site is down", name="Bob")
    assert held_by() == "Bob"
    salt.runners["deploytoken.release"](summary="done", ref=taken["ref"])
    assert held_by() is None
