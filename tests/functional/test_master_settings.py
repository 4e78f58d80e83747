"""A team's own configuration of the master: the procedure compiles as ever, and its page is shown, and shown once."""

import json

import pytest
import salt.output

REQUEST = {"target": "web*", "reason": "upgrade: 'it' \"all\" # now"}
WHITESPACE = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
#: What may change how states are rendered and ordered.
COMPILING = [
    {"jinja_trim_blocks": True},
    {"jinja_lstrip_blocks": True},
    {"jinja_trim_blocks": True, "jinja_lstrip_blocks": True},
    {"jinja_sls_env": WHITESPACE},
    {"jinja_sls_env": {"line_statement_prefix": "%"}},
    {"jinja_env": {**WHITESPACE, "line_statement_prefix": "%"}},
    {"renderer": "yaml"},
    {"renderer": "json"},
    {"renderer": "mako|yaml"},
    {"state_auto_order": False},
    {"failhard": True},
    {"state_aggregate": True},
]
#: What may change what Salt shows of a state that changed nothing.
SHOWING = [
    *({"state_output": form} for form in ("full", "full_id", "Terse", "mixed_id", "changes", "filter")),
    {"state_output": "filter", "state_output_exclude": "True,"},
    {"state_output": "filter_id", "state_output_terse": ["True"]},
    *({"state_verbose": value} for value in (True, False)),
    {"state_verbose": False, "output": "highstate"},
    {"state_verbose": False, "state_output": "mixed"},
    {"state_output_diff": True},
    {"state_output_profile": False, "state_output_pct": True, "state_compress_ids": True, "color": True},
    {"quiet": True},
    *({"output": name} for name in ("highstate", "json", "nested")),
]


@pytest.mark.parametrize("settings", COMPILING, ids=str)
def test_the_procedure_compiles_as_ever(loaders, settings):
    def compiled(**options):
        show = loaders(**options).modules["state.show_low_sls"]
        for test in (False, True):
            found = show("deploytoken.deploy", pillar={"deploytoken": {**REQUEST, "test": test}})
            assert all(isinstance(low, dict) for low in found), found
            yield [{key: value for key, value in low.items() if key != "order"} for low in found]

    assert list(compiled(**settings)) == list(compiled())


@pytest.mark.parametrize("settings", SHOWING, ids=str)
@pytest.mark.parametrize("test", [False, True], ids=["deploy", "test"])
def test_the_page_is_shown_once(loaders, capsys, settings, test):
    asked = {"target": "web*", "reason": "upgrade", "tagret": "x", "test": test}
    loaded = loaders(
        deploytoken={"store": "sqlite:////nonexistent/token.db"}, pillar={"deploytoken": asked}, **settings
    )
    # What Salt gives to a state as it runs it.
    loaded.states.inject_globals = {"__running__": {}}
    loaded.states["deploytoken.requested"]("request")
    row = {**loaded.states["deploytoken.reported"]("report"), "__id__": "report", "__sls__": "x", "__run_num__": 1}
    if not loaded.opts.get("quiet"):  # as salt-run shows it
        shown = {"data": {"main": {"deploytoken_|-report_|-report_|-reported": row}}, "outputter": "highstate"}
        salt.output.display_output(shown, "highstate", loaded.opts)
    out = capsys.readouterr().out
    assert out.count("TEST: nothing was changed" if test else "NOTHING DEPLOYED") == 1, out
    if settings == {"output": "json"}:
        assert json.loads(out)["data"]["main"]


@pytest.mark.parametrize(
    "words", [["--quiet", "-l", "quiet"], ["--state-verbose=false"], ["--out=json"]], ids=" ".join
)
def test_a_misspelt_request_is_refused_on_standard_output_and_by_the_exit_code(master_config, words):
    """As `… > log` keeps it."""
    pillar = json.dumps({"deploytokn": REQUEST})
    config = master_config({"store": "sqlite:////nonexistent/token.db"})
    done = config.command("salt-run", *words, "state.orchestrate", "deploytoken.deploy", f"pillar={pillar}", out=None)
    assert done.code == 1, done
    assert "say what to deploy and why" in done.stdout
    assert done.stdout.count("NOTHING DEPLOYED") == 1
    if words == ["--out=json"]:
        assert json.loads(done.stdout)["data"]
