"""The whole orchestrated deploy, and the gate alone, against a bare highstate of the same minions."""

import functools

from saltext.deploytoken import config as settings
from saltext.deploytoken.token import Token
from script.benchmarks import plot, words
from script.benchmarks.fleet import Fleet
from script.benchmarks.sampling import difference, figures, in_turn, ratio, rows, sample, shuffled
from tests.support.proxy import FaultProxy

TITLE = "The orchestrated deploy, and the gate"
ROUNDS = {1: 5, 5: 5, 20: 3}  # by number of minions; many take long, because they share the CPUs
AIM_COST = 2.0  # of a trivial salt-run
AIM_GROWTH = 1.25
AIM_GATE = 5.0  # per cent
AIM_WIKI = 3.0  # seconds between two requests of the gates
FILES, COMMANDS = 60, 20
TRIVIAL, BARE, GATED, DEPLOY = "trivial", "bare", "gated", "deploy"
NOTHING, ONE, RUNNERS = "nothing", "one runner", "runners"
PAGE = "h1. Deploy token\n\nHeld by: nobody\n\nh2. History\n"
TOP = "base:\n  '*':\n    - deploytoken.gate\n    - site\n"
# The arguments of a run past the gate: without its executor and its state.
PAST = ("--module-executors=[direct_call]",), {"exclude": "[{'sls': 'deploytoken.gate'}]"}


def run(bench):
    sizes = list(ROUNDS)[: bench.rounds(2, 3)]
    redmine = bench.redmine()
    proxy = bench.stack.enter_context(FaultProxy(redmine.url))
    deploytoken = {"store": proxy.at(redmine.new_page(PAGE)), "api_key": redmine.key("alice"), "name": "Alice"}
    fleet = Fleet(bench, deploytoken)
    _site(fleet)
    token = bench.stack.enter_context(Token(settings.parse({"deploytoken": deploytoken})))
    reason = "upgrade PostgreSQL"
    found = []
    fleet.grow(1)
    own = _salts_own(fleet, bench, _runners(_deploy(fleet, reason)), bench.rounds(3, ROUNDS[1]))
    for size in sizes:
        fleet.grow(size)
        rounds = bench.rounds(3, ROUNDS[size])
        functions = {
            TRIVIAL: functools.partial(fleet.ran, "test.arg", "x"),
            BARE: functools.partial(_highstate, fleet, *PAST[0], **PAST[1]),
            GATED: None,
            DEPLOY: functools.partial(_deploy, fleet, reason),
        }
        functions[BARE]()  # the files come to the minions once
        wiki = dict.fromkeys(functions, 0)
        samples = {name: [] for name in functions}
        durations = []
        bench.say(f"minions: {size}, {rounds} rounds")
        for _ in range(rounds):
            for name in shuffled(functions):
                function = functions[name]
                if name == GATED:
                    ref = token.acquire(reason)["ref"]
                    function = functools.partial(_highstate, fleet, pillar=f'{{"deploytoken": {{"ref": "{ref}"}}}}')
                proxy.log.clear()
                before = fleet.publishes()  # not timed
                taken, answer = sample(function)
                samples[name].append(taken)
                wiki[name] = max(wiki[name], len(proxy.log))
                if name == DEPLOY:
                    questions = fleet.publishes() - before
                elif name == GATED:
                    durations += _gates(answer)
                    token.release(reason, ref)
        publish = [sample(functools.partial(fleet.ask, fleet.minions, "test.ping"))[0] for _ in range(rounds)]
        found.append(
            {
                "minions": size,
                **{name: figures(samples[name]) for name in functions},
                "cost": difference(samples[DEPLOY], samples[BARE]),
                "cost_in_trivial": _in_units(samples),
                "gate": _per_cent(samples[GATED], samples[BARE]),
                "gate_cost": difference(samples[GATED], samples[BARE]),
                "gate_state": round(sorted(durations)[len(durations) // 2], 1),
                "publish": figures(publish),
                "questions": {name: count for name, count in sorted(questions.items()) if name != "state.highstate"},
                "wiki": wiki,
            }
        )
    return {"rows": found, "own": own}


def _runners(deploy):
    """How many steps of a deploy reported their progress: a line on standard error says that each begins."""
    return sum(line.endswith(" …") for line in deploy.stderr.splitlines())


def _salts_own(fleet, bench, runners, rounds):
    """The time of an orchestration that does nothing, and of one whose steps are runners that do nothing."""
    (fleet.states / "nothing.sls").write_text("nothing:\n  test.nop: []\n")
    step = "  salt.runner:\n    - name: test.arg\n"
    for name, steps in (("one", 1), ("runners", runners)):
        (fleet.states / f"{name}.sls").write_text("".join(f"step {number}:\n{step}" for number in range(steps)))
    functions = {
        TRIVIAL: functools.partial(fleet.ran, "test.arg", "x"),
        NOTHING: functools.partial(fleet.ran, "state.orchestrate", "nothing"),
        ONE: functools.partial(fleet.ran, "state.orchestrate", "one"),
        RUNNERS: functools.partial(fleet.ran, "state.orchestrate", "runners"),
    }
    bench.say(f"orchestrations of nothing, and of 1 and {runners} runners that do nothing, {rounds} rounds")
    samples, _ = in_turn(functions, rounds)
    return {
        "runners": runners,
        "beyond_trivial": difference(samples[ONE], samples[TRIVIAL]),
        "rows": rows(samples, TRIVIAL),
    }


def _site(fleet):
    """A modest highstate: files from the master, and commands that are not needed."""
    (fleet.states / "top.sls").write_text(TOP)
    (fleet.states / "files").mkdir()
    lines = []
    for number in range(FILES):
        (fleet.states / "files" / str(number)).write_text(f"setting = {number}\n" * 20)
        lines.append(
            f"{{{{ opts.cachedir }}}}/site/{number}.conf:\n  file.managed:\n"
            f"    - source: salt://files/{number}\n    - makedirs: True\n"
        )
    command = "  cmd.run:\n    - name: 'true'\n    - unless: 'true'\n"
    lines += [f"command {number}:\n{command}" for number in range(COMMANDS)]
    (fleet.states / "site.sls").write_text("".join(lines))


def _highstate(fleet, *words_, **named):
    returns = fleet.salt("state.highstate", *words_, **named)
    for minion, states in returns.items():
        if not isinstance(states, dict):
            raise RuntimeError(f"{minion} answered {str(states)[:2000]}")
        site = [one for one in states.values() if one["__sls__"] == "site" and one["result"] is True]
        if len(site) != FILES + COMMANDS:
            raise RuntimeError(
                f"of {FILES + COMMANDS} states, {len(site)} succeeded on {minion}: {str(states)[:2000]}"
            )
    return returns


def _deploy(fleet, reason):
    done = fleet.orchestrate("deploytoken.deploy", target="*", reason=reason)
    if done.code:
        raise RuntimeError(f"the deploy failed: {done.stdout[-3000:]}{done.stderr[-1000:]}")
    return done


def _gates(returns):
    """How long the state of the gate took on each minion, in milliseconds."""
    for states in returns.values():
        for key, state in states.items():
            if key.startswith("deploygate_|-") and key.endswith("_|-passed"):
                yield state["duration"]


def _in_units(samples):
    pairs = zip(samples[DEPLOY], samples[BARE], strict=True)
    cost = [{clock: one[clock] - other[clock] for clock in one} for one, other in pairs]
    return ratio(cost, samples[TRIVIAL])


def _per_cent(samples, others):
    found = ratio(samples, others)
    for figure in found.values():
        figure["median"] = round(100 * (figure["median"] - 1), 1)
        for key in ("quartiles", "range"):
            figure[key] = [round(100 * (value - 1), 1) for value in figure[key]]
    return found


def aims(found, loaded):
    found = found["rows"]
    for row in found:
        yield (
            f"extra time of a deploy of {_count(row)} over a bare highstate: at most {AIM_COST:.0f} trivial"
            " `salt-run`",
            words.verdict_of_both(row["cost_in_trivial"], AIM_COST, "", loaded),
        )
    first, last = found[0], found[-1]
    yield (
        f"the same for {_count(last)}, against {_count(first)}: at most {AIM_GROWTH:.2f}",
        words.verdict(last["cost"]["wall"]["median"] / first["cost"]["wall"]["median"], AIM_GROWTH),
    )
    for row in found:
        yield (
            f"gate and external pillar, {_count(row)}: at most {AIM_GATE:.0f} % of the highstate",
            words.verdict(row["gate"]["wall"]["median"], AIM_GATE, " %", 1),
        )
    for row in found:
        allowed = 1 + row[GATED]["wall"]["median"] / 1000 / AIM_WIKI
        yield (
            f"wiki requests of all gates, highstate of {_count(row)}: at most one per {AIM_WIKI:.0f} seconds, and one",
            words.verdict(row["wiki"][GATED], allowed, "", 0),
        )


def _count(row):
    return f"{row['minions']} minion{'s' * (row['minions'] > 1)}"


def page(found):
    lines, costs, counts = [], [], []
    parts = [[row["minions"], *(f"{part / 1000:,.1f}" for part in _parts(row, found["own"]))] for row in found["rows"]]
    for row in found["rows"]:
        lines.append([row["minions"], *(words.seconds(row[name]["wall"]) for name in (TRIVIAL, BARE, GATED, DEPLOY))])
        costs.append(
            [
                row["minions"],
                words.seconds(row["cost"]["wall"]),
                words.times(row["cost_in_trivial"]["wall"]),
                ", ".join(f"{count} `{name}`" for name, count in row["questions"].items()) or "none",
                words.seconds(row["publish"]["wall"]),
                f"{words.ms(row['gate']['wall'])} %",
                f"{row['gate_state']:,.0f} ms",
                f"{row['gate_cost']['wall']['median'] / 1000 / AIM_GATE * 100:,.0f} s",
            ]
        )
        counts.append([row["minions"], *(row["wiki"][name] for name in (BARE, GATED, DEPLOY))])
    own = found["own"]
    names = {
        TRIVIAL: "none: `salt-run test.arg`",
        NOTHING: "that does nothing",
        ONE: "of one runner that does nothing (`salt.runner`)",
        RUNNERS: f"of {own['runners']} such runners",
    }
    salts = [
        [names[row["what"]], *words.both(row, words.seconds), *words.both(row["ratio"], words.times)]
        for row in own["rows"]
    ]
    heads = ["minions", "deploy − bare, s", "in trivial `salt-run`s", "questions", "a question, s", "gated over bare"]
    heads += ["the gate's state", f"{AIM_GATE:.0f} % of"]
    return f"""
These are whole commands, in seconds of clock time. The highstate is small: {FILES} files from the master, none of
which needs a change, and {COMMANDS} commands with an `unless`.

- *Bare*: `salt '*' state.highstate`, past the gate's executor and without its state.
- *Gated*: the same with both, under a hold on a real Redmine.
- *Deploy*: `salt-run state.orchestrate deploytoken.deploy` of the same gated minions, from the repositories (none
  here) to the entry in the History.

![Seconds by number of minions](deploy.svg)

{words.table(["minions", "a trivial `salt-run`", "bare", "gated", "deploy"], lines)}

The next table shows the differences. *Questions* are what the deploy asks all minions besides the highstate, each with
one publish. *A question* is the time that one takes here (`test.ping`), without the start of a command. On separate
servers, twenty minions take about as long as one. Here, all minions share this machine's CPUs, and each answer costs
CPU time, so this part grows with them. So does the gated highstate.

The gate compiles each minion's pillar anew, because it does not trust what came with the run. That takes the same time
for every highstate: a small share of a long one, and a large share of a short one. The last column says how long a
highstate would have to be for the gate to take {AIM_GATE:.0f} % of it. The executor and the state of one run ask only
once if the state follows within 3 seconds. If many minions share the CPUs, compiling the highstate takes longer, and
the state asks again. It must, because the token may have changed hands by then. *The gate's state* is the time that
this state took.

{words.table(heads, costs)}

Part of that is Salt's own cost, as an orchestration of one runner shows: Salt runs the orchestration, and loads all
runners and a minion of the master's, including its grains. `salt.runner` loads these again for each step. The deploy
has {own["runners"]} steps that report their progress, and loads these at most once. As a ratio to a
trivial `salt-run`:

{words.table(["orchestration", "clock, s", "CPU, s", "ratio, clock", "CPU"], salts)}

So these are the parts of the cost, by the medians, in seconds:

{words.table(["minions", "deploy − bare", "Salt's own", "questions", "gate", "the rest"], parts)}

*The rest* is the steps' own work: a client of the master's for each question, the requests to the wiki, the states of
the orchestration, and the page at its end. It also has what minions on the same CPUs take from that work. Every
orchestration pays Salt's own part, and the questions make a deploy safe. Separate servers answer them at the same
time. Here, the answers queue for the CPUs, so the cost grows.

Requests to the wiki, the highest number of any round:

{words.table(["minions", "bare", "gated", "deploy"], counts)}
"""


def _parts(row, own):
    """What a deploy costs beyond its highstate, and the parts of that cost."""
    cost = row["cost"]["wall"]["median"]
    salt = own["beyond_trivial"]["wall"]["median"]
    questions = sum(row["questions"].values()) * row["publish"]["wall"]["median"]
    gate = row["gate_cost"]["wall"]["median"]
    return cost, salt, questions, gate, cost - salt - questions - gate


def plots(found):
    def of(name):
        return [(row["minions"], words.in_seconds(row[name]["wall"])) for row in found["rows"]]

    series = {
        "deploy, as a whole": of(DEPLOY),
        "highstate, gated": of(GATED),
        "highstate, bare": of(BARE),
        "deploy − bare": of("cost"),
        "a trivial salt-run": of(TRIVIAL),
    }
    title = "A deploy and its highstate: seconds, median and quartiles"
    return {"deploy.svg": plot.curves(title, series, "minions", "seconds")}
