"""The SLS files that minions get say the same under every setting of a master for its templates."""

import pytest

BLOCKS = {"trim_blocks": True, "lstrip_blocks": True}
SETTINGS = {
    "trimmed": {"jinja_trim_blocks": True, "jinja_lstrip_blocks": True},
    "trimmed in SLS files": {"jinja_sls_env": {**BLOCKS, "keep_trailing_newline": True}},
    "trimmed everywhere": {"jinja_env": BLOCKS},
    "line statements and escapes": {"jinja_env": {"line_statement_prefix": "%", "autoescape": True}},
    "plain YAML, and little else": {"renderer": "yaml", "renderer_whitelist": ["jinja", "yaml"]},
    "another template engine": {"renderer": "mako|yaml", "allow_undefined": False},
    "another language": {"renderer": "py", "renderer_blacklist": ["pydsl"], "state_auto_order": False},
    "JSON": {"renderer": "jinja|json"},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_minions_read_depends_on_no_setting(loaders, tmp_path, setting):
    def shown(**options):
        found = loaders("minion", **SETTINGS[setting], **options).modules["state.show_low_sls"](
            "deploytoken.gate,deploytoken.busy"
        )
        return {f"{row['state']}.{row['fun']}": row for row in found}

    rows = shown()
    assert rows.keys() == {"deploygate.passed", "busy.asked"}
    assert rows["deploygate.passed"]["failhard"] is True
    assert rows["deploygate.passed"].get("answer") is None
    # Over salt-ssh the SLS asks the rule, which says yes here without a token.
    answer = shown(thin_dir=str(tmp_path), deploygate="off")["deploygate.passed"]["answer"]
    assert answer["allowed"] is True
    assert answer["comment"] == "The gate of this minion is off."
