"""The configuration is checked as a whole, each mistake names its key, and no key of the API is ever shown."""

import dataclasses
import os
import pwd
import re

import pytest
import trustme

from saltext.deploytoken import config, doctor, errors, page, stores
from saltext.deploytoken.doctor import token_page
from saltext.deploytoken.token import Token

KEY = "0123456789abcdef0123456789abcdef01234567"
STORE = "https://crm.example.org/projects/ocds/wiki/Deploy_token"


def parse(**values):
    return config.parse({"deploytoken": {"store": STORE, **values}})


def refused(match, **values):
    with pytest.raises(errors.Invalid, match=match) as caught:
        parse(**values)
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    return str(caught.value)


def test_a_store_is_enough_and_the_rest_has_defaults():
    parsed = parse()

    assert (parsed.store, parsed.timeout, parsed.deadline) == (STORE, 10, 60)
    assert parsed.verify is True
    assert parsed.rules == page.Rules("nobody", "History", "* {until} {name}: {summary}{notes} (ref {ref})", "first")


def test_the_rules_of_the_page_come_from_two_keys():
    history = {"heading": " Verlauf ", "entry": "| {until} | {ref} |", "newest": "last"}

    assert parse(nobody="niemand", history=history).rules == page.Rules(
        "niemand", "Verlauf", "| {until} | {ref} |", "last"
    )
    assert parse(history={"newest": "last", "heading": None}).rules == page.Rules(newest="last")


def test_people_have_names_for_the_page_by_their_login():
    assert parse(people={"alice": " Alice Adams ", "CORP\\bob": "Bob"}).people == {
        "alice": "Alice Adams",
        "CORP\\bob": "Bob",
    }
    assert parse(people=None).people == parse().people == {}
    refused(
        "^deploytoken.people.bob: 'Niemand' is the word for a free token", people={"bob": "Niemand"}, nobody="niemand"
    )


@pytest.mark.parametrize("opts", [{}, {"deploytoken": None}, {"deploytoken": {}}, {"deploytoken": {"store": ""}}])
def test_without_a_store_both_kinds_are_shown(opts):
    with pytest.raises(errors.Invalid, match=r"^deploytoken: .*https://.*sqlite:////"):
        config.parse(opts)


def test_a_misspelt_store_is_not_a_missing_one():
    with pytest.raises(errors.Invalid, match=r"^deploytoken\.stor: no such key"):
        config.parse({"deploytoken": {"stor": STORE}})


@pytest.mark.parametrize("section", ["https://x", ["store"], 3])
def test_a_section_that_is_no_mapping_is_refused(section):
    with pytest.raises(errors.Invalid, match=r"^deploytoken: must be a mapping"):
        config.parse({"deploytoken": section})


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("store", [3, ["x"], "a\nb", " ", "http://[::1/projects/p/wiki/T", "http://ex\u2100.org/", "http://a:b/"]),
        ("name", [3, "", "Al\tice", ["Alice"]]),
        ("people", ["alice", ["alice"], 3]),
        (r"people\.alice", [{"alice": name} for name in (None, 3, "", "Al\tice", "Al (ice", "nobody", ["Alice"])]),
        (r"people\.1000", [{1000: "Alice"}]),
        (r"people\.sudo_alice", [{"sudo_alice": "Alice"}]),
        ("nobody", [False, "", "no\nbody", "*", "nobody (free)", "Held by:"]),
        ("timeout", [0, -1, "soon", True, 3601, "2h", []]),
        ("deadline", [0, "x", None, 4000]),
        ("patience", [0, "x", None, 4000]),
        # False, and what requests would take for it, must not switch anything off.
        ("verify", [False, None, 0, 1, "", [], {}, "no", "ca.pem", "/nonexistent/ca.pem", "/", __file__]),
        ("history", ["x", [], 3]),
        ("auth", ["deploy", [], 3, {}, {"username": "deploy"}, {"password": KEY}]),
        ("cert", ["", 3, [], ["/nonexistent"], {}, "client.pem", "/", "/nonexistent/client.pem"]),
        ("proxy", ["", 3, [], "proxy:3128", "socks5://proxy", "http://", "http://a:b", "http://proxy/way"]),
        ("api_key", ["", " ", None, 3, "two words", "sch\u00f6n", "sdb://vault/key"]),
        ("api_key_file", ["", None, 3, "/nonexistent/key", "/"]),
        ("typo", [1]),
    ],
)
def test_every_mistake_names_its_key(key, values):
    for value in values:
        refused(rf"^deploytoken\.{key}: ", **{key.partition("\\")[0]: value})


@pytest.mark.parametrize(
    ("key", "more"),
    [
        ("auth.username", {"username": "a:b"}),
        ("auth.username", {"username": 3}),
        ("auth.password", {"password": 1234}),
        ("auth.password", {"password": "sdb://vault/nothing"}),
        ("auth.password", {"password": "a\nb"}),
        ("auth.password", {"password_file": "/nonexistent/password"}),
        ("auth.password_file", {"password": None, "password_file": "password"}),
        ("auth.realm", {"realm": "Intranet"}),
        ("proxy.url", {"url": None}),
        ("proxy.url", {"url": "proxy"}),
        ("proxy.password", {"url": "http://proxy", "password": 1234}),
        ("proxy", {"url": "http://proxy", "username": None}),
    ],
)
def test_every_mistake_about_who_is_there_names_its_key(key, more):
    """A password beside its file, a name without a password, and so on."""
    given = {
        name: value for name, value in {"username": "deploy", "password": KEY, **more}.items() if value is not None
    }
    refused(rf"^deploytoken\.{key}: ", **{key.partition(".")[0]: given})


def test_a_password_in_front_is_kept_as_it_is_and_shown_nowhere(tmp_path):
    path = tmp_path / "password"
    path.write_text(f" {KEY} é:\r\n")
    file = {"username": "jürgen", "password_file": str(path)}

    parsed = parse(auth=file, proxy={"url": "https://proxy.example.org:3129/", **file})

    assert (parsed.auth.username, parsed.auth.password) == ("jürgen", f" {KEY} é:")
    assert parsed.proxy == "https://proxy.example.org:3129"
    assert parsed.proxy_auth == parsed.auth
    assert KEY not in f"{parsed!r} {parsed.auth!r} {parsed.auth}"
    assert parse(proxy="http://proxy").proxy == "http://proxy"
    for url in (f"http://deploy:{KEY}@proxy", f"http://{KEY}@proxy"):
        refused(r"^deploytoken\.proxy: holds a name or password; write a mapping of url, username", proxy=url)
    # requests would not ask that proxy for its certificate.
    refused(r"^deploytoken\.proxy: a proxy with https", proxy="https://proxy", store=STORE.replace("https", "http"))


def test_a_client_certificate_comes_with_its_own_key(tmp_path):
    ca, other = trustme.CA(), trustme.CA()
    certificate, key, both, secret = (tmp_path / name for name in ("client.crt", "client.key", "both", "secret"))
    client = ca.issue_cert("deploy@example.org")
    client.cert_chain_pems[0].write_to_path(certificate)
    client.private_key_pem.write_to_path(key)
    client.private_key_and_cert_chain_pem.write_to_path(both)
    secret.write_bytes(key.read_bytes().replace(b" PRIVATE", b" ENCRYPTED PRIVATE"))

    assert parse(cert=str(both)).cert == (str(both), str(both))
    assert parse(cert=[str(certificate), str(key)]).cert == (str(certificate), str(key))
    for cert, where, why in (
        ([certificate, key, key], "", "a list of these two files"),
        ([key, certificate], ".0", "no certificate in PEM form"),
        (certificate, "", "no private key; give a list of both"),
        ([certificate, certificate], ".1", "no private key"),
        ([certificate, "client.key"], ".1", "must be the absolute path"),
        ([certificate, tmp_path / "missing"], ".1", "No such file"),
        ([certificate, secret], ".1", f"needs a password.*`openssl pkey -in {secret} -out NEWFILE`"),
    ):
        given = [str(each) for each in cert] if isinstance(cert, list) else str(cert)
        refused(rf"^deploytoken\.cert{where}: .*{why}", cert=given)
    other.issue_cert("deploy@example.org").private_key_pem.write_to_path(key)
    refused(r"^deploytoken\.cert\.1: .* is not that of the certificate in ", cert=[str(certificate), str(key)])


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("heading", ["", 3, "a\nb", "** : **", "#", "## History", "h2. History", "C#"]),
        ("newest", ["top", 3]),
        (
            "entry",
            [
                "",
                "no list {ref}",
                "* {who} {ref}",
                "* {ref",
                "* {name}: {summary}",
                "* {} {ref}",
                "* {until:%Y} {ref}",
                "* {ref!r}",
                3,
            ],
        ),
        ("typo", ["x"]),
    ],
)
def test_every_mistake_under_history_names_its_key(key, values):
    for value in values:
        refused(rf"^deploytoken\.history\.{key}: ", history={key: value})


def test_an_unknown_key_is_answered_with_the_known_ones():
    message = refused("no such key", api_token=KEY)

    assert "api_key_file" in message
    assert "store" in message


def test_a_key_that_yaml_reads_as_a_number_is_told_from_a_missing_one():
    refused(r"^deploytoken\.api_key: YAML reads it as a number; put it into quotes", api_key=int("12" * 20))


@pytest.mark.parametrize("value", [None, "sdb://vault/redmine_api_key"])
def test_a_secret_that_salt_could_not_resolve_is_refused(value):
    refused(r"^deploytoken\.api_key: empty, or an sdb:// address", api_key=value)


def test_an_api_key_comes_from_the_configuration_or_a_file_but_not_both(tmp_path):
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")

    assert parse(api_key=f" {KEY} ").api_key == KEY
    assert parse(api_key_file=str(path)).api_key == KEY
    refused(r"^deploytoken\.api_key: give api_key or api_key_file, not both", api_key=KEY, api_key_file=str(path))


@pytest.mark.parametrize("content", [b"", b"\n", f"{KEY} {KEY}".encode(), b"\xff\xfe", f"{KEY}\n{KEY}".encode()])
def test_a_file_without_one_key_in_it_is_refused_and_its_content_not_shown(tmp_path, content):
    path = tmp_path / "key"
    path.write_bytes(content)

    refused(r"^deploytoken\.api_key_file: ", api_key_file=str(path))


def test_an_api_key_is_in_no_representation():
    parsed = parse(api_key=KEY)

    assert KEY not in f"{parsed!r} {parsed} {[parsed]}"
    assert KEY not in repr(dataclasses.replace(parsed, name="Alice"))


def test_certificates_are_always_verified_and_with_the_file_that_is_given(tmp_path):
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)

    assert parse(verify=str(path)).verify == str(path)
    assert parse(verify=True).verify is True
    assert "always verified" in refused(r"^deploytoken\.verify: ", verify=False)
    assert "No such file" in refused(r"^deploytoken\.verify: ", verify="/nonexistent/ca.pem")
    path.write_text("-----BEGIN CERTIFICATE-----\n")
    refused(r"^deploytoken\.verify: .*PEM", verify=str(path))


def test_a_file_with_a_secret_that_everybody_can_read_is_found(tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY)
    opts = {"deploytoken": {"store": f"sqlite:///{tmp_path}/token.db", "api_key_file": f"{path} "}}

    file = {"username": "deploy", "password_file": str(path)}
    more = {"auth": file, "proxy": {"url": "http://proxy", **file}}
    names = ["key file", "password file", "proxy's password file"]
    for mode, ok in ((0o644, False), (0o602, False), (0o640, True), (0o600, True)):
        path.chmod(mode)
        found = secret_files({"deploytoken": {**opts["deploytoken"], **more}})
        assert [(check.name, check.ok, f"chmod o-rwx {path}" in check.text) for check in found] == [
            (name, ok, not ok) for name in names
        ]
    del opts["deploytoken"]["api_key_file"]
    assert secret_files(opts) == []


def secret_files(opts):
    """What the doctor says of the files with secrets."""
    with Token(config.parse(opts)) as token:
        return [check for check in token_page.configured(token) if check.name != "configuration"]


def test_a_key_file_that_is_somebody_elses_names_the_user_as_whom_salt_runs(tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY)
    path.chmod(0)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        user = pwd.getpwuid(os.geteuid()).pw_name
        said = refused(r"^deploytoken\.api_key_file: ", api_key_file=str(path))
    finally:
        if root:
            os.seteuid(0)
    assert said.endswith(f"run `chown {user} {path}`")


def test_a_key_file_is_found_in_the_home_of_the_user_and_in_no_folder_that_is_current(tmp_path, monkeypatch):
    (tmp_path / "redmine.key").write_text(KEY)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    found = parse(api_key_file="~/redmine.key")

    assert (found.api_key, found.api_key_file) == (KEY, f"{tmp_path}/redmine.key")
    for path in ("redmine.key", "~nobody-of-this-name/redmine.key", ""):
        refused(r"^deploytoken\.api_key_file: must be ", api_key_file=path)


@pytest.mark.parametrize(
    ("repositories", "key"),
    [
        ([{"pth": "/srv/deploy"}], "deploytoken.repositories.0.pth"),
        (["/srv/a", {"path": "srv/b"}], "deploytoken.repositories.1.path"),
        ({"states": {"path": "/srv/a", "timeout": "soon"}}, "deploytoken.repositories.states.timeout"),
        ("/srv/deploy", "deploytoken.repositories"),
    ],
)
def test_broken_repositories_are_refused_and_the_doctor_shows_them(tmp_path, repositories, key):
    opts = {"deploytoken": {"store": f"sqlite:///{tmp_path}/token.db", "repositories": repositories}}

    with pytest.raises(errors.Invalid, match=f"^{re.escape(key)}: ") as caught:
        config.parse(opts)
    with pytest.raises(errors.Invalid) as examined:
        doctor.examine(opts)
    assert examined.value.details["checks"] == [{"name": "configuration", "ok": False, "text": str(caught.value)}]


def test_repositories_come_checked_and_in_their_order():
    assert parse().repositories == ()
    assert [(item.name, item.path) for item in parse(repositories=["/srv/a/", {"path": "/srv/b"}]).repositories] == [
        ("a", "/srv/a"),
        ("b", "/srv/b"),
    ]


@pytest.mark.parametrize(
    ("address", "match"),
    [
        ("ftp://crm.example.org/projects/ocds/wiki/Deploy_token", "must begin with https://"),
        ("/var/lib/deploytoken/token.db", "must begin with https://"),
        # Each would be another token in every folder that somebody types a command in.
        ("sqlite:token.db", "give an absolute path, with four slashes"),
        ("sqlite:///token.db", "give an absolute path, with four slashes"),
        ("sqlite://host/token.db", "give an absolute path, with four slashes"),
        ("sqlite:////var/lib/token%00.db", "give an absolute path, with four slashes"),
        ("https://crm.example.org/projects/ocds/wiki", "must be a wiki page's address"),
        ("https://crm.example.org/projects/ocds/wiki/Deploy_token/3", "must be a wiki page's address"),
        ("https:///projects/ocds/wiki/Deploy_token", "must be a wiki page's address"),
        (f"https://alice:{KEY}@crm.example.org/projects/ocds/wiki/Deploy_token", "holds a password or key"),
        (f"ftp://alice:{KEY}@crm.example.org/projects/ocds/wiki/Deploy_token", "must begin with https://"),
        (f"{STORE}?key={KEY}", "holds a password or key"),
    ],
)
def test_an_address_where_no_token_can_be_kept_is_refused_before_anybody_is_asked(address, match):
    with pytest.raises(errors.Invalid, match=rf"^deploytoken\.store: .*{match}") as caught:
        stores.connect(parse(store=address, api_key=KEY))
    assert KEY not in str(caught.value)
    with pytest.raises(errors.Invalid) as caught:
        doctor.examine({"deploytoken": {"store": address, "api_key": KEY}})
    assert [check["name"] for check in caught.value.details["checks"]] == ["configuration"]
    assert KEY not in repr(caught.value.details)


def test_a_wiki_page_without_a_key_is_refused_before_anybody_is_asked():
    with pytest.raises(errors.Invalid, match=r"^deploytoken\.api_key: needed for a Redmine page"):
        stores.connect(parse())
