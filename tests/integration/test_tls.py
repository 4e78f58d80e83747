"""TLS before a real Redmine: certificates are always verified, and nothing is sent to whom they do not prove."""

import datetime
import os
import socket
import ssl

import pytest
import trustme

from saltext.deploytoken import errors
from tests.support.places import RedminePlace
from tests.support.proxy import Fault, FaultProxy, redirect


@pytest.fixture(scope="module")
def ca():
    return trustme.CA()


@pytest.fixture
def ca_file(ca, tmp_path):
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture
def served(redmine, ca):
    """``served(name)``: a page behind TLS with a certificate for ``name``, and the proxy that speaks it."""
    started = []

    def serve(name="127.0.0.1", **more):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(name, **more).configure_cert(context)
        proxy = FaultProxy(redmine.url, tls=context).__enter__()
        started.append(proxy)
        place = RedminePlace(redmine)
        place.address = proxy.at(place.page)
        return place, proxy

    yield serve
    for proxy in started:
        proxy.__exit__()


def refused(place, match, **more):
    with place.token("alice", **more) as alice, pytest.raises(errors.StoreError, match=match) as caught:
        alice.acquire("upgrade")
    # Nothing was sent, so there is no doubt, and sending again is no use.
    assert type(caught.value) is errors.StoreError
    assert "\n" not in str(caught.value)


def test_a_private_ca_is_refused_until_its_file_is_configured(served, ca_file, monkeypatch):
    place, proxy = served()
    # What requests would take from the environment is nobody's decision for this key.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ca_file)
    refused(place, "certificate is not accepted .*; correct the address or the certificate, or set deploytoken.verify")
    assert proxy.log == []

    with place.token("alice", verify=ca_file) as alice:
        ref = alice.acquire("upgrade")["ref"]
        assert alice.release("done", ref)["released"] == ref
    assert proxy.methods() == ["GET", "PUT"] * 2
    assert len({request.connection for request in proxy.log}) == 1


@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("crm.example.org", {}, "mismatch"),
        ("127.0.0.1", {"not_after": datetime.datetime(2020, 1, 1)}, "expired"),
    ],
    ids=["of another host", "expired"],
)
def test_a_certificate_that_does_not_prove_the_host_is_refused(served, ca_file, name, more, why):
    place, proxy = served(name, **more)
    refused(place, f"certificate is not accepted .*{why}", verify=ca_file)
    assert proxy.log == []


def test_a_ca_of_somebody_else_proves_nothing(served, tmp_path):
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    place, proxy = served()
    refused(place, "certificate is not accepted", verify=str(other))
    assert proxy.log == []


@pytest.mark.parametrize("last", [b"HTTP/1.1 500 Oops\r\n\r\n", b""], ids=["in clear text", "without a farewell"])
def test_tls_that_breaks_after_the_write_was_sent_leaves_its_fate_open(served, ca_file, last):
    """Not every error of TLS says that nothing was sent: only one of a certificate does."""

    def tear(handler, forward):
        forward()
        with socket.socket(fileno=os.dup(handler.connection.fileno())) as bare:
            bare.sendall(last)
            bare.shutdown(socket.SHUT_RDWR)

    place, proxy = served()
    with place.token("alice", verify=ca_file) as alice:
        proxy.faults([Fault("tear", tear)], only="PUT")
        ref = alice.acquire("upgrade")["ref"]
    assert [request.applied for request in proxy.log if request.method == "PUT"] == [[204], [204]]
    assert [ref in text for text in place.versions()] == [False, True]


def test_a_redirect_from_tls_to_clear_text_never_carries_the_key(served, ca_file, proxy):
    place, encrypted = served()
    encrypted.faults(lambda *_: redirect(f"{proxy.url}/"))
    refused(place, "redirects to http://", verify=ca_file)
    assert proxy.log == []
