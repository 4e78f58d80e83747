#!jinja|yaml
{#
The whole procedure, one step after the other:

    salt-run state.orchestrate deploytoken.deploy pillar='{"deploytoken": {"target": "web*", "reason": "upgrade PostgreSQL"}}'

Each step requires the one before, so that whatever fails stops all that follows. `cleanup` alone requires the token only:
it is the end of every deploy that took it. In a test (`"test": true` in the request, or `test=True` beside the pillar) no
step requires another: nothing is done, and each says what it would do.

A team's own configuration must not change any of this. So the first line names the renderer; no white space matters that
`jinja_trim_blocks` would take away; `failhard` is said on every step, because a master's own `failhard: True` would skip
the cleanup; and so is `order`, because of `state_auto_order: False`.

docs/procedure.md describes the keys of the request, and every end that a deploy can come to.
#}
{% set request = pillar.get("deploytoken") if pillar.get("deploytoken") is mapping else {} %}
{% set test = opts.test or request.test | default(False) is sameas true %}
{% macro after(step) %}{{ [] if test else [{"deploytoken": step}] }}{% endmacro %}

request:
  deploytoken.requested:
    - order: 1
    - failhard: False

# Nothing moves yet: a deploy of somebody else may be under way.
repositories:
  deploytoken.fetched:
    - order: 2
    - failhard: False
    - require: {{ after("request") }}

idle:
  deploytoken.idle:
    - order: 3
    - failhard: False
    - require: {{ after("repositories") }}

token:
  deploytoken.held:
    - order: 4
    - failhard: False
    - require: {{ after("idle") }}

update:
  deploytoken.updated:
    - order: 5
    - failhard: False
    - require: {{ after("token") }}

# Once more: the first answer was true at its moment, the token may have been waited for since, and the update may have
# brought another check.
still idle:
  deploytoken.idle:
    - order: 6
    - failhard: False
    - require: {{ after("update") }}

boots:
  deploytoken.noted:
    - order: 7
    - failhard: False
    - require: {{ after("still idle") }}

deploy:
  deploytoken.applied:
    - order: 8
    - failhard: False
    - require: {{ after("boots") }}

# Not after the deploy alone: whatever became of it, machines that rebooted or are away belong into the History.
reboots:
  deploytoken.rebooted:
    - order: 9
    - failhard: False
    - require: {{ after("boots") }}

cleanup:
  deploytoken.released:
    - order: -1
    - failhard: False
    - require: {{ after("token") }}

# It requires nothing: whatever happened, this is what a person reads.
report:
  deploytoken.reported:
    - order: last
    - failhard: False
