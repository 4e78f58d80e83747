# The gate for every highstate: first in top.sls, for every gated minion.
#
#   base:
#     '*':
#       - deploytoken.gate
#
# It sees what the minion starts by itself. The executor `deploygate` sees the rest: see docs/gate.md.

deploy token:
  deploytoken.gate:
    - order: first
    - failhard: True
