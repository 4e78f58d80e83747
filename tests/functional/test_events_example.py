"""The reactor of docs/events.md, as it stands there, posts each event to a chat room."""

import http.server
import json
import pathlib
import re
import threading

import pytest
import yaml

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
NASTY = "50% \"done\": 'a' {{ 7*7 }} {% raw %} \\n # – Käthe\u2028!"


@pytest.fixture
def room():
    """A chat room's webhook: its address, and what was posted there."""
    posted = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.headers["Content-Type"], json.loads(body)["text"]))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hooks/4b1f", posted
        server.shutdown()
        thread.join()


@pytest.fixture
def react(loaders, room, tmp_path):
    """Do with an event what a master's reactor does: find the reaction, render it, run it."""
    from salt.utils.reactor import Reactor

    text = (CHECKOUT / "docs/events.md").read_text()
    (conf,), (sls,) = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("yaml", "jinja"))
    options = yaml.safe_load(conf)
    ((pattern, (path,)),) = options["reactor"][0].items()
    assert f"`{path}`" in text
    mine = tmp_path / pathlib.Path(path).name
    mine.write_text(sls)
    options.update(deploytoken_webhook=room[0], reactor=[{pattern: [str(mine)]}])
    salt = loaders(**options)
    reactor = Reactor(salt.opts)

    def react(tag, data):
        chunks = reactor.reactions(tag, data, reactor.list_reactors(tag))
        for chunk in chunks:
            assert (chunk["state"], chunk["fun"]) == ("runner", "http.query")
            arguments = {key: value for part in chunk["args"] for key, value in part.items()}
            salt.runners["http.query"](**arguments)
        return len(chunks)

    yield react
    reactor.minion.destroy()  # or a garbage collection does, in the midst of another test


def test_the_example_tells_a_chat_room_who_holds_the_token(react, room):
    hold = {"held_by": "Alice", "ref": "aaaaaaaa", "reason": "upgrade"}
    assert react("deploytoken/acquired", hold) == 1
    assert react("deploytoken/released", {"held_by": None, "name": "Alice", "entry": "* Alice: done"}) == 1
    assert react("deploytoken/takenover", {**hold, "held_by": "Bob", "displaced": hold}) == 1
    assert react("deploytoken/refused", {**hold, "name": "Bob", "purpose": "me too"}) == 1
    assert react("deploytoken/waiting", {**hold, "name": "Bob", "purpose": "me too", "left": 5}) == 0
    assert react("salt/job/1/new", {}) == 0

    assert room[1] == [
        ("application/json", "Alice holds the deploy token: upgrade"),
        ("application/json", "The deploy token is free. * Alice: done"),
        ("application/json", "Bob took the deploy token over: upgrade"),
        ("application/json", "Bob would like the deploy token (me too); Alice holds it"),
    ]


def test_no_reason_breaks_out_of_the_example(react, room):
    assert react("deploytoken/acquired", {"held_by": "Alice", "reason": NASTY}) == 1

    assert room[1] == [("application/json", f"Alice holds the deploy token: {NASTY}")]
