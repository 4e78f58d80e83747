"""The probe of a team's own programs, with real ones that real users run."""

import pytest

from tests.support import minion
from tests.support.wait import until

PATIENCE = 15  # seconds: a machine that has other work takes its time


@pytest.fixture
def check(checkout, tmp_path):
    """``check(settings)``: what the minion answers whose probe ``command`` has these."""
    return lambda settings: minion.functions(checkout, tmp_path, {"command": settings})["busy.check"]()


@pytest.fixture
def ana(users):
    return users("ana")


@pytest.fixture
def program(ana):
    """``program("import-jobs", "echo …")``: a program of a team's, in Ana's home, and its path."""

    def program(name, body):
        path = ana.home / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return str(path)

    return program


def test_a_program_that_prints_nothing_is_idle_and_each_line_blocks(check, program, ana):
    path = program("import-jobs", 'cat "$HOME/jobs" 2>/dev/null || true; echo')
    settings = {"run": path, "user": ana.name, "timeout": PATIENCE}
    (ana.home / "jobs").unlink(missing_ok=True)

    assert check(settings)["idle"] is True

    (ana.home / "jobs").write_text("import of customers\n\njob7\timport of orders, 42 %\tJim\njob8\timport\t\n")
    answer = check({**settings, "ask": "the data team"})
    assert answer["unknowns"] == []
    assert [(one["id"].partition("/command/")[2], one["what"], one["ask"]) for one in answer["blockers"]] == [
        ("import-jobs/import_of_customers~b9e45dee", "import of customers", "the data team"),
        ("import-jobs/job7", "import of orders, 42 %", "Jim"),
        ("import-jobs/job8", "import", "the data team"),
    ]

    (ana.home / "jobs").write_text("job7\timport of orders, 43 %\tJim\n")
    assert [one["id"] for one in check(settings)["blockers"]] == ["kingfisher-main/command/import-jobs/job7"]
    (ana.home / "jobs").unlink()


def test_it_runs_as_that_user_without_a_shell_and_with_nothing_of_the_minions(check, program, ana, monkeypatch):
    monkeypatch.setenv("SECRET", "of the minion")
    path = program("who", 'echo "$(id -un) $PWD $# $1 $SECRET$MINE"')

    for run in ([path, "a b $HOME", "*"], f"{path} 'a b $HOME' \\*"):
        (blocker,) = check({"run": run, "user": ana.name, "env": {"MINE": "x"}, "timeout": PATIENCE})["blockers"]
        assert blocker["what"] == f"{ana.name} / 2 a b $HOME x"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("echo busy; echo; echo hunter >&2; echo more >&2; exit 3", "asks: ended with exit code 3: hunter"),
        ("exit 1", "asks: ended with exit code 1"),
        ("kill -9 $$", "asks: was ended by signal 9"),
        ("sleep 7777 & sleep 7777", "asks: {path} did not answer within 1 seconds"),
        ("exec yes", "asks: {path} answered more than 1000000 bytes"),
        (r"printf 'caf\351\n'", "asks: printed something else than printable UTF-8"),
        (r"printf 'a\033[2Jb\n'", "asks: printed something else than printable UTF-8"),
        (r"printf 'id\twhat\task\tmore\n'", "asks: printed a line that is neither ID, WHAT nor ID, WHAT, ASK"),
        (r"printf '\twhat\n'", "asks: printed a line that is neither ID, WHAT nor ID, WHAT, ASK"),
    ],
)
def test_anything_but_a_clear_answer_is_unknown(check, program, ana, body, why):
    path = program("asks", body)

    answer = check({"run": [path], "user": ana.name, "timeout": 1 if "within" in why else PATIENCE})

    assert (answer["idle"], answer["blockers"]) == (False, [])
    assert answer["unknowns"][0]["why"].startswith(why.format(path=path))
    until(lambda: not ana.processes(), what="all that it started to be gone")


def test_a_program_that_cannot_be_run_is_unknown_and_hides_no_other(check, program, ana):
    path = program("works", "echo one; echo careful >&2")
    (ana.home / "secret").write_text("#!/bin/sh\n")
    (ana.home / "secret").chmod(0o600)
    several = [
        {"run": "/nonexistent/asks", "user": ana.name},
        {"run": "true", "user": "nobody-of-that-name", "name": "queue"},
        {"run": [str(ana.home / "secret")], "user": ana.name},
        {"run": path, "user": ana.name, "timeout": PATIENCE},
        {"run": path, "user": "root", "name": "again", "timeout": PATIENCE},
    ]

    answer = check(several)

    assert [one["id"] for one in answer["blockers"]] == [
        f"kingfisher-main/command/{name}/one" for name in ("again", "works")
    ]
    assert [one["what"] for one in answer["info"]] == ["again (works) said: careful", "works said: careful"]
    missing, nobody, denied = (one["why"] for one in answer["unknowns"])
    assert missing == "asks: /nonexistent/asks is not installed"
    assert nobody == "queue (true): there is no user 'nobody-of-that-name'"
    assert denied.startswith("secret: ")
    assert "Permission denied" in denied


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ([], "busy.command: a list of one"),
        ({}, "busy.command.user: needed"),
        ([{"run": "true"}], "busy.command.0.user: needed"),
        ({"user": "root"}, "busy.command.run: needed"),
        ({"run": [], "user": "root"}, "busy.command.run: needed"),
        ({"run": " ", "user": "root"}, "busy.command.run: is empty"),
        ({"run": ["sleep", 5], "user": "root"}, "busy.command.run.1: must be text"),
        ({"run": "echo 'a", "user": "root"}, "busy.command.run: No closing quotation"),
        ({"run": "ls /jobs | wc -l", "user": "root"}, "busy.command.run: no shell reads this"),
        ({"run": "true", "user": 0}, "busy.command.user: must be text"),
        ({"run": "true", "user": "root", "name": " "}, "busy.command.name: is empty"),
        ({"run": "true", "user": "root", "timeout": "soon"}, "busy.command.timeout: 'soon' is not a duration"),
        ({"run": "true", "user": "root", "env": {"KEY": 5}}, "busy.command.env.KEY: must be text"),
        ({"run": "true", "user": "root", "env": {"A=B": "x"}}, "busy.command.env: 'A=B' is not the name"),
        ({"run": "true", "user": "root", "shell": True}, "busy.command.shell: no such key"),
        (
            [{"run": "true", "user": "root"}, {"run": "/bin/true", "user": "ana"}],
            "busy.command.1.name: 'true' is already",
        ),
    ],
)
def test_a_wrong_setting_is_named(check, settings, why):
    (unknown,) = check(settings)["unknowns"]

    assert unknown["why"].startswith(why)
