{#-
The whole procedure, one step after the other:

    salt-run state.orchestrate deploytoken.deploy pillar='{"deploytoken": {"target": "web*", "reason": "upgrade PostgreSQL"}}'

Each step requires the one before, so that whatever fails stops all that follows. `cleanup` alone requires the token only:
it is the end of every deploy that took it. `failhard` is said on every step because a master's own `failhard: True` would
skip the cleanup. In a test (`"test": true` in the request, or `test=True` beside the pillar) no step requires another:
nothing is done, and each says what it would do.

docs/procedure.md describes the keys of the request, and every end that a deploy can come to.
-#}
{%- set request = pillar.get("deploytoken") if pillar.get("deploytoken") is mapping else {} %}
{%- set test = opts.test or request.test | default(False) is sameas true %}

{%- macro after(step) %}
    - failhard: False
{%- if not test %}
    - require:
      - deploytoken: {{ step }}
{%- endif %}
{%- endmacro %}

request:
  deploytoken.requested:
    - failhard: False

repositories:
  deploytoken.updated:
    {{- after("request") }}

idle:
  deploytoken.idle:
    {{- after("repositories") }}

token:
  deploytoken.held:
    {{- after("idle") }}

# Once more: the first answer was true at its moment, and the token may have been waited for since.
still idle:
  deploytoken.idle:
    {{- after("token") }}

boots:
  deploytoken.noted:
    {{- after("still idle") }}

deploy:
  deploytoken.applied:
    {{- after("boots") }}

# Not after the deploy alone: whatever became of it, machines that rebooted or are away belong into the History.
reboots:
  deploytoken.rebooted:
    {{- after("boots") }}

cleanup:
  deploytoken.released:
    - order: -1
    {{- after("token") }}

# It requires nothing: whatever happened, this is what a person reads.
report:
  deploytoken.reported:
    - order: last
    - failhard: False
