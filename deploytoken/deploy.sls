{#-
The whole procedure, one step after the other:

    salt-run state.orchestrate deploytoken.deploy pillar='{"deploytoken": {"target": "web*", "reason": "upgrade PostgreSQL"}}'

Each step requires the one before, so that whatever fails stops all that follows. `cleanup` alone requires the token only:
it is the end of every deploy that took it. `failhard` is said on every step because a master's own `failhard: True` would
skip the cleanup. In a test (`"test": true` in `deploytoken`, or `test=True` beside the pillar) no step requires another: nothing
is done, and all of it is told.

docs/procedure.md describes the keys of `deploytoken`, and every end that a deploy can come to.
-#}
{%- set deploy = pillar.get("deploytoken") if pillar.get("deploytoken") is mapping else {} %}
{%- set test = opts.test or deploy.test | default(False) is sameas true %}
{#- A ref begins with a letter, for then no YAML reads it as a number. #}
{%- set ref = deploy.ref | default(salt["random.get_str"](1, chars="abcdef") ~ salt["random.get_str"](7, chars="0123456789abcdef")) %}
{%- set target = deploy.target | default("") %}
{%- set listed = target is iterable and target is not string and target is not mapping %}
{%- set target = (target | join(",") if listed else target) | json %}
{%- set target_type = deploy.target_type | default("list" if listed else "glob") | json %}
{%- set reason = deploy.reason | default("") | json %}
{%- set ssh = deploy.ssh | default(False) %}
{%- set consent = deploy.consent | default(None) | json %}

{%- macro after(step) %}
    - failhard: False
{%- if not test %}
    - require:
      - {{ step }}
{%- endif %}
{%- endmacro %}

request:
  deploytoken.requested:
    - failhard: False

repositories:
  deployrepos.latest:
    - test: {{ test }}
    {{- after("deploytoken: request") }}

idle:
  busy.idle:
    - target: {{ target }}
    - target_type: {{ target_type }}
    - consent: {{ consent }}
    - ssh: {{ ssh | json }}
    - wait_idle: {{ (None if test else deploy.wait_idle | default(None)) | json }}
    {{- after("deployrepos: repositories") }}

token:
  deploytoken.held:
    - reason: {{ reason }}
    - ref: {{ ref | json }}
    - resume: {{ "ref" in deploy }}
    - by: {{ deploy.name | default(None) | json }}
    - wait: {{ deploy.wait | default(None) | json }}
    - test: {{ test }}
    {{- after("busy: idle") }}

# Once more: the first answer was true at its moment, and the token may have been waited for since.
still idle:
  busy.idle:
    - target: {{ target }}
    - target_type: {{ target_type }}
    - consent: {{ consent }}
    - ssh: {{ ssh | json }}
    {{- after("deploytoken: token") }}

boots:
  deployreboots.noted:
    - ref: {{ ref | json }}
    - reboot: {{ deploy.reboot | default(False) | json }}
    - ssh: {{ ssh | json }}
    - test: {{ test }}
    {{- after("busy: still idle") }}

deploy:
  deploystates.applied:
    - target: {{ target }}
    - target_type: {{ target_type }}
    - ref: {{ ref | json }}
    - sls: {{ deploy.sls | default(None) | json }}
    - batch: {{ deploy.batch | default(None) | json }}
    - environment: {{ deploy.saltenv | default(None) | json }}
    - ssh: {{ ssh | json }}
    - test: {{ test }}
    {{- after("deployreboots: boots") }}

# Not after the deploy alone: whatever became of it, who rebooted and who is away belongs into the History.
reboots:
  deployreboots.done:
    - ref: {{ ref | json }}
    - after: deploy
    - batch: {{ deploy.reboot_batch | default(1) | json }}
    - timeout: {{ deploy.reboot_timeout | default(300) | json }}
    - health: {{ deploy.health | default(None) | json }}
    - consent: {{ consent }}
    - ssh: {{ ssh | json }}
    - test: {{ test }}
    {{- after("deployreboots: boots") }}

cleanup:
  deploytoken.released:
    - reason: {{ reason }}
    - ref: {{ ref | json }}
    - resumed: {{ "ref" in deploy }}
    - on_failure: {{ deploy.on_failure | default("hold") | json }}
    - test: {{ test }}
    - order: -1
    {{- after("deploytoken: token") }}

# It requires nothing: whatever happened, this is what a person reads.
report:
  deployreport.shown:
    - test: {{ test }}
    - ref: {{ ref | json }}
    - order: last
    - failhard: False
