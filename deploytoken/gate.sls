#!jinja|yaml
# The gate for every highstate: first in top.sls, for every gated minion.
#
#     base:
#       '*':
#         - deploytoken.gate
#
# It sees what the minion starts by itself. The executor `deploygate` sees the rest: see docs/gate.md. Over salt-ssh (where
# `opts` has the far side's `thin_dir`) the far side knows no token, so the machine that compiles this SLS asks the rule.
# There is no block statement here: what becomes of the white space around one is a setting of the master's.
deploy token:
  deploygate.passed:
    - order: first
    - failhard: True
    - answer: {{ (salt["deploygate.admit"](pillar={"deploytoken": pillar.get("deploytoken")}, test=opts.test, fun="deploygate.passed") if "thin_dir" in opts else none) | json | safe }}
