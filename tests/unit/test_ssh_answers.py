"""What salt-ssh's client returns for one machine: an answer, or why there is none."""

import signal
import subprocess

import psutil
import pytest
import salt.config

from saltext.deploytoken import errors, machines
from saltext.deploytoken.machines import base, ssh
from tests.support import wait


def error(stderr="", stdout="", **more):
    said = {"stdout": stdout, "stderr": stderr, "retcode": 255, "parsed": None}
    return {**said, "_error": "The command resulted in a non-zero exit code", **more}


def test_what_a_function_returned_is_an_answer_with_its_return_code():
    assert ssh.parse_answer({"return": True, "retcode": 0, "fun": "test.ping"}) == ({"ret": True, "retcode": 0}, None)
    assert ssh.parse_answer({"return": {"idle": False}, "retcode": 7})[0]["retcode"] == 7


@pytest.mark.parametrize("refusal", ["Refused: nobody holds the deploy token.", ["No matching sls found for 'x'"]])
def test_a_run_that_was_refused_before_it_began_is_a_failure_and_not_a_silence(refusal):
    answer, why = ssh.parse_answer(refusal)

    assert why is None
    assert answer == {"ret": refusal, "retcode": 1}
    assert base.problem(answer, 15)


def test_whoever_was_at_it_when_the_process_that_asked_ended_may_still_be_at_it():
    answer, why = ssh.parse_answer("Target 'web' did not return any data, probably due to an error.")

    assert answer is None
    assert why == "gave no answer over ssh: the process that asked it was ended"


@pytest.mark.parametrize(
    "nothing",
    [None, "", [], {}, True, 0, {"retcode": 0}, {"stdout": "idle"}, error(**{"return": {"idle": True}, "retcode": 0})],
    ids=repr,
)
def test_whatever_is_not_the_return_of_a_function_is_never_an_answer(nothing):
    answer, why = ssh.parse_answer(nothing)

    assert answer is None or base.problem(answer, 15)
    assert why or answer


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            error("ssh: connect to host docs port 22: Connection refused"),
            "connect to host docs port 22: Connection ref",
        ),
        (error("Warning: Permanently added 'docs'\nroot@docs: Permission denied (publickey)."), "Permission denied"),
        (error("Host key verification failed."), "its host key is not known here; log in once with ssh"),
        (error("@ REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed."), "another than before"),
        (error(stdout="The host key needs to be accepted, to auto accept run"), "its host key is not known here"),
        (error("ERROR: Unable to locate appropriate python command"), "it has no python3 on its PATH"),
        (error("sudo: a password is required"), "sudo asks for a password there"),
        (error("Traceback (most recent call last):\n  File\nKeyError: 'x'"), "KeyError: 'x'"),
        (error(stderr="", stdout="/usr/bin/scp\nno space left"), "no space left"),
        (error(), "The command resulted in a non-zero exit code"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_of_ssh_is_one_line_that_says_what_to_do(said, line):
    answer, why = ssh.parse_answer(said)

    assert answer is None
    assert why.startswith("gave no answer over ssh: ")
    assert line in why
    assert "\n" not in why


def test_a_type_of_target_that_no_roster_knows_is_refused_and_does_not_match_nobody():
    with pytest.raises(errors.Invalid, match="which salt-ssh knows"):
        ssh.Ssh({}).expect("G@os:Debian", "compound")


def test_an_id_in_a_nodegroup_that_is_not_in_the_roster_is_named(tmp_path):
    file = tmp_path / "roster"
    file.write_text("web: {host: x}\ndb: {host: y}\n")
    groups = {"all": ["web", "db9"], "text": "web,db"}
    opts = salt.config.apply_master_config(
        {"roster_file": str(file), "root_dir": str(tmp_path), "ssh_list_nodegroups": groups}
    )

    assert ssh.Ssh(opts).expect("all", "nodegroup") == (["web"], {"db9": "is not in the roster"})
    assert ssh.Ssh(opts).expect("text", "nodegroup") == (["db", "web"], {})
    # A comma in a pattern is no guess here: it matches nobody at all.
    assert ssh.Ssh(opts).expect("web,db", "glob") == ([], {})


@pytest.mark.parametrize(
    ("text", "target", "target_type"),
    [
        (b"- web\n", "*", "glob"),
        (b"web\n", "web", "list"),
        (b"web: {host: x}\0\n", "*", "glob"),
        (b"web: {host: \xe9}\n", "*", "glob"),
        (b"web: {host: x}\n", "[", "pcre"),
    ],
)
def test_a_roster_or_a_target_that_nothing_can_be_made_of_is_one_line(tmp_path, text, target, target_type):
    file = tmp_path / "roster"
    file.write_bytes(text)
    opts = salt.config.apply_master_config({"roster_file": str(file), "root_dir": str(tmp_path)})

    with pytest.raises(errors.Invalid, match="the roster cannot be read") as caught:
        ssh.Ssh(opts).expect(target, target_type)

    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", ["no", "yes", 1, None])
def test_over_ssh_is_true_or_false_and_nothing_that_only_looks_so(value):
    with pytest.raises(errors.Invalid, match=r"ssh: .* is not true or false"):
        machines.connect({}, value)


def test_after_the_limit_whatever_was_started_is_ended_with_its_own_and_nothing_else():
    with subprocess.Popen(["sleep", "1000"]) as before:
        try:
            with ssh._ended_after(0.5) as ended:
                shell = ["sh", "-c", "setsid sleep 1000 & echo $!; wait"]
                with subprocess.Popen(shell, stdout=subprocess.PIPE, text=True) as late:
                    child = psutil.Process(int(late.stdout.readline()))
                    assert late.wait(20) == -signal.SIGKILL
                assert ended.is_set()
                wait.until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
            assert before.poll() is None
        finally:
            before.kill()


def test_within_the_limit_nothing_is_ended():
    with ssh._ended_after(30) as ended:
        assert subprocess.run(["true"]).returncode == 0
    assert not ended.is_set()


def test_the_pillar_of_the_orchestration_itself_goes_to_no_machine():
    assert ssh.Ssh({"pillar": {"secret": "of the master"}}).opts["pillar"] == {}


def test_arguments_travel_as_on_a_command_line():
    assert ssh._texts(["a b", 5432, True, None, [1, "x y"]]) == ["a b", "5432", "true", "null", '[1, "x y"]']
