{#-
The whole procedure, one step after the other:

    salt-run state.orchestrate deploytoken.deploy pillar='{"deploy": {"target": "web*", "reason": "upgrade PostgreSQL"}}'

Each step requires the one before, so that whatever fails stops all that follows. `cleanup` alone requires the token only:
it is the end of every deploy that took it. `failhard` is said on every step because a master's own `failhard: True` would
skip the cleanup. With `test=True` no step requires another: nothing is done, and all of it is told.

docs/procedure.md describes the keys of `deploy`, and every end that a deploy can come to.
-#}
{%- set deploy = pillar.get("deploy") if pillar.get("deploy") is mapping else {} %}
{#- A ref begins with a letter, for then no YAML reads it as a number. #}
{%- set ref = deploy.ref | default(salt["random.get_str"](1, chars="abcdef") ~ salt["random.get_str"](7, chars="0123456789abcdef")) %}
{%- set target = deploy.target | default("") | json %}
{%- set target_type = deploy.target_type | default("glob") | json %}
{%- set reason = deploy.reason | default("") | json %}
{%- set consent = deploy.consent | default(None) | json %}

{%- macro after(step) %}
    - failhard: False
{%- if not opts.test %}
    - require:
      - {{ step }}
{%- endif %}
{%- endmacro %}

request:
  deploytoken.requested:
    - failhard: False

repositories:
  deployrepos.latest:
    {{- after("deploytoken: request") }}

idle:
  busy.idle:
    - target: {{ target }}
    - target_type: {{ target_type }}
    - consent: {{ consent }}
    - wait_idle: {{ deploy.wait_idle | default(None) | json }}
    {{- after("deployrepos: repositories") }}

token:
  deploytoken.held:
    - reason: {{ reason }}
    - ref: {{ ref | json }}
    - resume: {{ "ref" in deploy }}
    - by: {{ deploy.name | default(None) | json }}
    - wait: {{ deploy.wait | default(None) | json }}
    {{- after("busy: idle") }}

# Once more: the first answer was true at its moment, and the token may have been waited for since.
still idle:
  busy.idle:
    - target: {{ target }}
    - target_type: {{ target_type }}
    - consent: {{ consent }}
    {{- after("deploytoken: token") }}

boots:
  deploytoken.booted:
    {{- after("busy: still idle") }}

# No `batch`, `subset`, `allow_fail`, `fail_minions` nor `expect_minions: False` here: each succeeds without a minion that is down.
deploy:
  salt.state:
    - tgt: {{ target }}
    - tgt_type: {{ target_type }}
{%- if deploy.sls is defined %}
    - sls: {{ deploy.sls | json }}
{%- else %}
    - highstate: True
{%- endif %}
    - queue: False
    - pillar:
        deploy:
          ref: {{ ref | json }}
    {{- after("deploytoken: boots") }}

cleanup:
  deploytoken.released:
    - reason: {{ reason }}
    - ref: {{ ref | json }}
    - resumed: {{ "ref" in deploy }}
    - on_failure: {{ deploy.on_failure | default("hold") | json }}
    - reboot_timeout: {{ deploy.reboot_timeout | default(300) | json }}
    - order: last
    {{- after("deploytoken: token") }}
