"""Machines that say what a test wants, at the moment that it wants."""

from saltext.deploytoken.machines.base import Machines

IDLE = {"idle": True, "checks": [], "blockers": [], "unknowns": [], "info": []}


def boot_id(digit):
    """A boot ID made of one digit."""
    return "-".join(str(digit) * length for length in (8, 4, 4, 4, 12))


def busy(minion, name="spider", **more):
    """What a minion says on which something runs."""
    blocker = {"id": f"{minion}/p/{name}", "probe": "p", "user": None, "what": name, "age": None, "ask": None}
    return {**IDLE, "idle": False, "blockers": [{**blocker, **more}]}


def states(result=True, changes=None, comment="", number=0, name="nginx", **more):
    """One state in a minion's return."""
    row = {"result": result, "changes": changes or {}, "comment": comment, "__run_num__": number, "__id__": name}
    return {f"pkg_|-{name}_|-x_|-installed": {**row, **more}}


class Scripted(Machines):
    """
    Machines called ``ids``.

    ``busy`` has what each says of itself (default: idle), or a list of it look by look; ``boots`` its boot IDs look by
    look (the last one stays, None is a look without an answer); ``returns`` the full return of its states, or why
    there is none, or an exception that is raised. ``leaving`` are the machines with a scheduled shutdown.
    """

    shown_by, program, argument, busy_codes = "salt-key --list all shows them", "salt", "", (0, 7)

    def __init__(self, *ids):
        super().__init__({})
        self.ids = list(ids)
        self.busy, self.boots, self.returns, self.leaving = {}, {}, {}, set()
        self.asked, self.ordered, self.ill = [], [], {}

    def expect(self, target, target_type="glob"):
        self.asked.append((target, target_type))
        if target_type == "list":
            named = target if isinstance(target, list) else target.split(",")
            return sorted(set(named) & set(self.ids)), dict.fromkeys(set(named) - set(self.ids), "has no accepted key")
        return sorted(self.ids if target == "*" else set(self.ids) & {target}), {}

    def _ask_busy(self, ids, timeout):
        found = {}
        for minion in ids:
            answer = self.busy.get(minion, IDLE)
            answer = answer.pop(0) if isinstance(answer, list) else answer
            found[minion] = {"ret": {"boot": self._boot(minion), **answer}, "retcode": 0 if answer["idle"] else 7}
        return found, {}

    def _boot(self, minion):
        seen = self.boots.setdefault(minion, [boot_id(1)])
        return seen.pop(0) if len(seen) > 1 else seen[0]

    def collect_returns(self, ids, fun, arg=(), kwarg=None, timeout=15):
        if fun == "system.reboot":
            self.ordered += ids
            return {}
        if fun == "file.read":
            found = {minion: self._boot(minion) for minion in sorted(ids)}
            return {minion: {"ret": boot, "retcode": 0} for minion, boot in found.items() if boot}
        return {minion: {"ret": self.ill.get(minion, True), "retcode": 0} for minion in ids}

    def call_all(self, ids, questions, timeout=15):
        boots = {minion: self._boot(minion) for minion in sorted(ids)}
        return {minion: [boot, minion in self.leaving] for minion, boot in boots.items() if boot}

    def follow(self, ids, fun, arg, kwarg, tell):
        self.asked.append((list(ids), fun, kwarg))
        for minion in ids:
            answer = self.returns.get(minion, {"ret": states(), "retcode": 0})
            if isinstance(answer, BaseException):
                raise answer
            yield (minion, None, answer) if isinstance(answer, str) else (minion, answer, None)

    def refresh(self, ids, modules=True):
        return {}
