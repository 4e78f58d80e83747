"""The gate over salt-ssh, as far as it can be checked without a far side."""

import pytest

from saltext.deploytoken import doctor, errors


@pytest.fixture
def opts(loaders, tmp_path):
    """The options of a laptop with a token and the gate for salt-ssh."""
    salt = loaders(deploytoken={"store": f"sqlite:///{tmp_path}/token.db", "name": "Alice", "ssh_gate": True})
    salt.runners["deploytoken.init"]()
    return salt.opts


def test_the_doctor_says_that_salt_ssh_finds_the_gate(opts):
    assert [check["ok"] for check in doctor.examine(opts)["checks"] if check["name"] == "salt-ssh"] == [True]


def test_a_gate_that_salt_ssh_would_not_find_fails_the_doctor(opts):
    with pytest.raises(errors.StoreError, match=r"checks failed: .*salt-ssh;") as failed:
        doctor.examine({**opts, "module_dirs": []})

    [check] = [check for check in failed.value.details["checks"] if check["name"] == "salt-ssh"]
    assert "module_dirs" in check["text"]
