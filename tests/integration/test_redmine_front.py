"""
Redmine as companies run it: below a path, behind a real Apache that asks for a password and a client certificate, and
reached through a proxy. Redmine's key, and what those in front are told, go to nobody else, and into no log.
"""

import base64
import contextlib
import logging
import ssl
from urllib.parse import quote

import pytest
import trustme

from saltext.deploytoken import config, errors
from tests.support.apache import Apache
from tests.support.places import RedminePlace
from tests.support.process import free_port
from tests.support.proxy import FaultProxy, status
from tests.support.wait import until

REVERSE = """
SSLEngine on
SSLCertificateFile {folder}/server.pem
<Location /redmine/>
    ProxyPass BEHIND/
</Location>
"""
PASSWORD = """
<Location />
    AuthType Basic
    AuthName Intranet
    AuthUserFile {folder}/users
    Require valid-user
</Location>
"""
CERTIFICATE = """
SSLCACertificateFile {folder}/ca.pem
SSLVerifyClient require
"""
FORWARD = """
ProxyRequests On
AllowCONNECT 1024-65535
"""
ASKS = """
<Proxy *>
    AuthType Basic
    AuthName Outside
    AuthUserFile {folder}/users
    Require valid-user
</Proxy>
"""
SITES = {
    "password": REVERSE + PASSWORD,
    "certificate": REVERSE + CERTIFICATE,
    "both": REVERSE + PASSWORD + CERTIFICATE,
    "closed": REVERSE + "<Location />\nRequire all denied\n</Location>\n",
    "proxy": FORWARD,
    "proxy that asks": FORWARD + ASKS,
    "proxy with TLS": "SSLEngine on\nSSLCertificateFile {folder}/server.pem\n" + FORWARD + ASKS,
    "proxy for 443": "ProxyRequests On\nAllowCONNECT 443\n",
}
#: In Redmine, he is somebody else than whose key it is.
BOB = {"username": "bob", "password": "a long bob password"}
JÜRGEN = {"username": "jürgen", "password": "1 €: %2F@&/"}


class Front:
    """An Apache with these sites, its certificates, and ``behind``, which sees what reaches Redmine."""

    def __init__(self, redmine, behind, folder):
        self.redmine, self.behind = redmine, behind
        ca = trustme.CA()
        self.apache = Apache({name: site.replace("BEHIND", behind.url) for name, site in SITES.items()})
        self.apache.users(**{user["username"]: user["password"] for user in (BOB, JÜRGEN)})
        ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(self.apache.folder / "server.pem")
        ca.cert_pem.write_to_path(self.apache.folder / "ca.pem")
        self.ca = str(self.apache.folder / "ca.pem")
        self.cert, self.other_cert, self.key = (str(folder / name) for name in ("both.pem", "other.pem", "key.pem"))
        client = ca.issue_cert("alice@example.org")
        client.private_key_and_cert_chain_pem.write_to_path(self.cert)
        client.private_key_pem.write_to_path(self.key)
        trustme.CA().issue_cert("alice@example.org").private_key_and_cert_chain_pem.write_to_path(self.other_cert)

    def place(self, site, project="ocds"):
        place = RedminePlace(self.redmine, project=project)
        place.address = f"{self.apache.urls[site]}/redmine{place.page.removeprefix(self.redmine.url)}"
        return place

    @contextlib.contextmanager
    def token(self, site, **more):
        with self.place(site).token("alice", **{"verify": self.ca, **more}) as token:
            yield token

    def refused(self, site, match, **more):
        """The doctor says the same as whoever wants the token; nothing has reached Redmine."""
        self.behind.clear()
        with self.token(site, **{"deadline": 1, **more}) as alice:
            with pytest.raises(errors.StoreError, match=match) as caught:
                alice.acquire("upgrade")
            checks = {check.name: check for check in alice.store.checks()}
        assert (list(checks), checks["server"].ok) == (["server"], False)
        assert checks["server"].text == str(caught.value)
        assert "\n" not in str(caught.value)
        assert self.behind.log == []
        return caught.value


@pytest.fixture(scope="module")
def front(redmine, tmp_path_factory):
    with FaultProxy(redmine.url) as behind:
        made = Front(redmine, behind, tmp_path_factory.mktemp("front"))
        try:
            made.apache.start()
            yield made
        finally:
            made.apache.stop()


@pytest.fixture
def secrets(caplog):
    """At the end, none of these is in any log, nor a password as it is written into a header or an address."""
    caplog.set_level(logging.DEBUG)
    kept = [user["password"] for user in (BOB, JÜRGEN)]
    yield kept
    kept += [base64.b64encode(f"{user['username']}:{user['password']}".encode()).decode() for user in (BOB, JÜRGEN)]
    kept += [quote(word, safe="") for secret in kept for word in (secret, secret.encode().decode("latin-1"))]
    said = "".join(f"{record.getMessage()} {vars(record)}\n" for record in caplog.get_records("call"))
    assert "urllib3" in said
    assert [secret for secret in kept if secret in said] == []


def test_a_hold_through_all_that_stands_in_front_is_the_key_owners(front, secrets):
    place, key = front.place("both"), front.redmine.key("alice")
    secrets.append(key)
    proxy = {"url": front.apache.urls["proxy that asks"], **JÜRGEN}
    more = {"verify": front.ca, "auth": BOB, "cert": [front.cert, front.key], "proxy": proxy, "name": None}
    front.behind.clear()
    with place.token("alice", **more) as alice:
        ref = alice.acquire("upgrade")["ref"]
        assert alice.status()["held_by"] == "Alice Adams"
        assert alice.release("done", ref)["released"] == ref
        assert [check.name for check in alice.store.checks() if check.ok is not True] == []
        known = f"{alice.config!r} {alice.config.auth!r} {alice.config.proxy_auth!r} {vars(alice.store)}"
    for secret in (key, BOB["password"], JÜRGEN["password"]):
        assert secret not in known

    # Apache lets its own credentials through to Redmine, which looks at the key alone.
    assert {request.headers.get("Authorization") is not None for request in front.behind.log} == {True}
    assert {request.path.partition("/")[0] for request in front.behind.log} == {""}
    assert [version["author"]["name"] for version in front.redmine.versions(place.page)][1:] == ["Alice Adams"] * 2
    assert [key in line for line in front.apache.log("both")] == [True] * len(front.behind.log)
    # The proxy was told where to, and who is there, and nothing else.
    until(lambda: front.apache.log("proxy that asks"), what="the proxy to write down who left")
    host = front.apache.urls["both"].removeprefix("https://")
    for line in front.apache.log("proxy that asks"):
        assert line.startswith(f'"CONNECT {host} HTTP/1.')
        assert (key in line, line.split('"')[2].split()[:2]) == (False, ["-", "-"])


@pytest.mark.parametrize("user", [BOB, JÜRGEN], ids=["of Redmine", "with letters and signs"])
def test_a_password_in_front_and_a_rejected_key_are_two_things(front, secrets, user, tmp_path):
    file = tmp_path / "password"
    file.write_text(f"{user['password']}\n")
    asked = "a web server in front of Redmine asks for HTTP basic authentication; set deploytoken.auth.username and"
    front.refused("password", asked)
    rejected = "a web server in front of Redmine rejects the name or the password of deploytoken.auth; correct them"
    front.refused("password", rejected, auth={**user, "password": "another"})

    auth = {"username": user["username"], "password_file": str(file)}
    with front.token("password", auth=auth) as alice:
        alice.release("done", alice.acquire("upgrade")["ref"])
    # Bob's own password is right in Redmine too, and yet does nothing where the key is wrong.
    with front.token("password", auth=auth, api_key="0" * 40) as nobody:
        with pytest.raises(errors.StoreError, match="rejects the API key; check deploytoken"):
            nobody.acquire("upgrade")
        assert [check.name for check in nobody.store.checks() if not check.ok] == ["key"]


@pytest.mark.parametrize("challenge", ["Negotiate", 'Digest realm="basically", nonce="1"', 'Bearer realm="x"'])
def test_a_log_in_that_no_program_has_is_called_so(redmine, proxy, challenge):
    place = RedminePlace(redmine)
    place.address = proxy.at(place.page)
    proxy.faults(lambda *_: status(401, **{"WWW-Authenticate": challenge}))
    with place.token("alice") as alice, pytest.raises(errors.StoreError, match="a log-in that only browsers have"):
        alice.status()


def test_a_door_that_is_shut_is_not_called_a_right_that_is_missing(front):
    front.refused(
        "closed", r"a web server in front of Redmine refuses the request \(status 403\); ask its administrator"
    )


def test_a_client_certificate_is_shown_to_the_server_that_asks_for_it(front):
    with front.token("certificate", cert=front.cert) as alice:
        alice.release("done", alice.acquire("upgrade")["ref"])
    for more in ({}, {"cert": front.other_cert}):
        front.refused("certificate", "deploytoken.cert", **more)


@pytest.mark.parametrize("said", ["No required SSL certificate was sent", "The SSL certificate error"])
def test_a_client_certificate_that_nginx_misses_is_told_from_a_bad_request(redmine, proxy, front, said):
    """nginx 1.22 ends the handshake first, and then answers so."""
    place = RedminePlace(redmine)
    place.address = proxy.at(place.page)
    proxy.faults(lambda *_: status(400, body=f"<center>{said}</center>"))
    for more, what in (({}, "asks for a client"), ({"cert": front.cert}, "rejects the client")):
        with (
            place.token("alice", **more) as alice,
            pytest.raises(errors.StoreError, match=f"{what} certificate; .*cert$"),
        ):
            alice.status()


@pytest.mark.parametrize("proxy", ["proxy that asks", "proxy with TLS"])
def test_a_proxy_that_asks_who_is_there_is_told_or_named(front, secrets, proxy):
    url = front.apache.urls[proxy]
    front.refused(
        "password", f"^the proxy {url} asks for a name and a password; write deploytoken.proxy as a mapping", proxy=url
    )
    wrong = {"url": url, "username": "jürgen", "password": "another"}
    assert not isinstance(
        front.refused(
            "password", f"^the proxy {url} rejects the name or the password of deploytoken.proxy", proxy=wrong
        ),
        errors.InDoubt,
    )
    with front.token("password", auth=BOB, proxy={"url": url, **JÜRGEN}) as alice:
        alice.release("done", alice.acquire("upgrade")["ref"])


def test_a_proxy_that_leads_nowhere_is_named(front, tmp_path):
    away, narrow = f"http://127.0.0.1:{free_port()}", front.apache.urls["proxy for 443"]
    front.refused("password", rf"^the proxy {away} makes no connection to https://[\d.:]+ \(NewConn", proxy=away)
    front.refused("password", rf"^the proxy {narrow} makes no connection to https.*\(status 40\d\)", proxy=narrow)
    # Its certificate is verified as the server's is.
    url = front.apache.urls["proxy with TLS"]
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    front.refused("password", f"^{url}: the certificate is not accepted", proxy=url, verify=str(other))


def test_a_page_without_tls_goes_through_a_proxy_too_and_past_what_the_environment_says(redmine, front, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    place = RedminePlace(redmine)
    for site, user in (("proxy", {}), ("proxy that asks", JÜRGEN)):
        with place.token("alice", proxy={"url": front.apache.urls[site], **user}) as alice:
            alice.release("done", alice.acquire("upgrade")["ref"])
        assert f"PUT {place.page}.json" in str(front.apache.log(site))
    with place.token("alice", proxy=front.apache.urls["proxy that asks"]) as alice:
        with pytest.raises(errors.StoreError, match="asks for a name and a password; write deploytoken"):
            alice.status()


def test_what_the_certificate_files_hold_is_what_tls_needs(front):
    """The configuration refuses what would stop the first request, and no more."""
    for cert in (front.cert, [front.cert, front.key], [front.cert, front.cert]):
        parsed = config.parse({"deploytoken": {"store": "https://crm.example.org/projects/p/wiki/T", "cert": cert}})
        ssl.create_default_context().load_cert_chain(*parsed.cert)
