"""Terminals of real people: what stands around in them while nothing runs, and one job hidden in each place."""

import contextlib
import dataclasses
import os
import re
import shutil
import subprocess

import psutil

from tests.support.users import User
from tests.support.wait import until

# What is in the homes. Each prompt is a name and "> ".
BASHRC = 'PS1="${DESK:-bash}> "\n'
AGENTS = """
eval "$(ssh-agent)"
gpg-agent --daemon
printf 'protocol=https\\nhost=wiki\\nusername=ana\\npassword=x\\n\\n' | git credential-cache --timeout 99999 store
. ./.bashrc
"""
# A clock, and the three ways in which prompts have their helpers: a pair of pipes, a named pipe, a pseudo-terminal.
ZSHRC = """
PS1='zsh> '
exec {clock}< <(while :; do date; sleep 1; done)
tick() { read -r -u $1 now }
zle -F $clock tick
coproc { while read -r line; do :; done }
mkfifo -m 600 questions-$$
exec {questions}<>questions-$$
(exec cat <&$questions >/dev/null) &!
zmodload zsh/zpty
worker() { while read -r line; do eval $line; done }
zpty -b worker worker
"""
TMUX_CONF = """
set -g status-interval 1
set -g status-left '#(while :; do date; sleep 1; done)'
set -g status-right '#(sleep 0.3; cut -d " " -f 1 /proc/loadavg | tr -d .)'
"""
SCREENRC = """
startup_message off
backtick 1 0 0 sh -c 'while :; do date; sleep 1; done'
backtick 2 1 1 sh -c 'sleep 0.3; date'
hardstatus alwayslastline '%1` %2`'
"""
HALF = "rsync -a half-of-a-comm"  # typed, and not sent


class Root(User):
    """root, with a home of the tests."""

    def __init__(self, home):
        super().__init__("root", 0, 0, home)

    def environment(self, **more):
        return super().environment(DESK="root", **more)


class Terminal:
    """A pane in the tmux of a user whose home is furnished (:func:`furnish`), in a session named ``desk-NAME``."""

    def __init__(self, user, name):
        self.user, self.session = user, f"desk-{name}"

    def tmux(self, *arguments):
        """A tmux command, on a socket in the user's home."""
        home = self.user.home
        return self.user.run("tmux", "-u", "-f", home / "tmux.conf", "-S", home / "tmux.sock", *arguments)

    def begin(self, command):
        self.tmux("new-session", "-d", "-x", "150", "-y", "24", "-s", self.session, f"exec {command}")

    def type(self, line, enter="\r"):
        self.tmux("send-keys", "-t", f"={self.session}:", "-l", line + enter)

    def wait(self, prompt):
        """Wait until the pane shows this prompt."""

        def shows():
            shown = self.tmux("capture-pane", "-p", "-t", f"={self.session}:")
            assert re.search(rf"^{prompt}>", shown, re.MULTILINE), shown.strip()
            return True

        until(shows, 240, f"{prompt}> in {self.session}")


def furnish(user):
    """Put the files of this module into the home of a user."""
    files = {
        ".bashrc": BASHRC,
        ".bash_profile": "PS1='ben> '\n",
        ".zshrc": ZSHRC,
        ".tcshrc": "set prompt = 'tcsh> '\n",
        ".config/fish/config.fish": "function fish_prompt; echo 'fish> '; end\n",
        ".screenrc": SCREENRC,
        "tmux.conf": TMUX_CONF,
        "agents": AGENTS,
        "read.sh": "read x < <(exec sleep 7720)\ntrue\n",
        "sleep.sh": "sleep 7777\ntrue\n",
    }
    # fish's first start makes completions, which takes it long.
    for folder in (".config/fish", ".local/share/fish/generated_completions"):
        (user.home / folder).mkdir(parents=True)
    for name, text in files.items():
        (user.home / name).write_text(text)
    (user.home / "ash").symlink_to(shutil.which("busybox"))
    os.mkfifo(user.home / "slow")
    subprocess.run(["chown", "-Rh", f"{user.uid}:{user.gid}", user.home], check=True)


def end(*users):
    """End all processes of these users, and of root's tmux server, by their ids."""
    left = []
    for user in users:
        if user.uid:
            left += user.processes()
            continue
        with contextlib.suppress(AssertionError, psutil.Error):
            server = psutil.Process(int(Terminal(user, "").tmux("display-message", "-p", "#{pid}")))
            left += [server, *server.children(recursive=True)]
    for one in left:
        with contextlib.suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(left, 60)


@dataclasses.dataclass(frozen=True)
class Place:
    """
    A pane in somebody's tmux.

    ``begun`` runs in it, and shows the first of the ``prompts``; each line of ``typed`` leads to the next one. The
    lines of ``job`` begin a job there, of which a probe says ``seen``, a regular expression. What may be over in a
    moment is ``restless``: a probe looks again and again, which takes it half a second.
    """

    name: str
    begun: str
    prompts: tuple
    job: tuple
    seen: str
    typed: tuple = ()
    user: str = "ana"
    restless: bool = False


def _bash(name, job, seen, typed=(), prompt=None, **more):
    """A place that begins with bash, where one line leads to the prompt."""
    typed = (typed,) if typed else ()
    prompts = ("root" if more else "bash", *((prompt or name,) if typed else ()))
    return Place(name, "bash", prompts, job, seen, typed, **more)


PLACES = [
    _bash("plain", ("sleep 7701",), "sleep 7701"),
    _bash("half", ("\x15sleep 7702 &",), "sleep 7702"),
    Place("options", "bash --rcfile .bashrc -o vi", ("bash",), ("read -t 7703 x",), "bash", restless=True),
    Place("zsh", "zsh", ("zsh",), ("zmodload zsh/zselect; zselect -t 770400",), "zsh", restless=True),
    Place("fish", "fish", ("fish",), ("sleep 7705 | cat",), "sleep 7705"),
    Place("mksh", "env DESK=mksh ENV=./.bashrc mksh", ("mksh",), ("read -t 7706 x",), "mksh", restless=True),
    Place("ksh", "env DESK=ksh ENV=./.bashrc ksh93", ("ksh",), ("sleep 7707",), "ksh93", restless=True),
    Place(
        "dash",
        "env DESK=dash ENV=./.bashrc dash",
        ("dash",),
        ("sleep 7708 > slow &", "(while read x; do :; done < slow) &"),
        "dash",
    ),
    Place("tcsh", "tcsh", ("tcsh",), ("sleep 7709 &",), "sleep 7709"),
    Place(
        "ash",
        "env DESK=ash ENV=./.bashrc ./ash",
        ("ash",),
        ("while :; do sleep 0.1; done",),
        "ash|sleep.*",
        restless=True,
    ),
    _bash("tee", ("sleep 7711 | cat",), "sleep 7711", "DESK=tee; exec > >(tee -a log) 2>&1; . ./.bashrc"),
    _bash("coproc", ("coproc sleep 7722",), "sleep 7722"),
    _bash("piped", ("bash", "nohup sleep 7712 &", "exit"), "sleep 7712"),
    _bash("script", ("bash -c 'sleep 7713; true'",), "sleep 7713", "DESK=script script -q typescript"),
    _bash("agents", ("setsid -f sleep 7714 &> /dev/null < /dev/null",), "sleep 7714", "DESK=agents . ./agents"),
    _bash("screen", ("(sleep 7715; true) &",), "sleep 7715", "DESK=screen screen -S desk-inner"),
    _bash("newgrp", ("sleep 7716; true",), "sleep 7716", "export DESK=newgrp; newgrp"),
    _bash("su", ("nohup sleep 7717 &", "exit"), "sleep 7717", "su - {ben}", "ben", user="root"),
    _bash("sudo", ("sleep 7718",), "sleep 7718", "sudo -i -u {ben}", "ben", user="root"),
    _bash("pty", ("nohup sleep 7719 &", "exit"), "sleep 7719", "sudo -i -u {ben}", "ben", user="root"),
    _bash("runuser", ("bash read.sh",), "bash read.sh", "/usr/sbin/runuser -l {ben}", "ben", user="root"),
]
POPUP = Place("plain", "env DESK=popup bash", ("popup",), ("sleep 7721",), "sleep 7721")


class Desktop:
    """
    Two people and root, with all these places at their prompts.

    Of ana's tmux, two sessions are a group, and what one pane shows is copied to a file. A client of it is in a window
    of a screen, with a popup; both have status lines that call programs.
    """

    def __init__(self, users, folder):
        folder.chmod(0o755)
        self.ana, self.ben, self._root = users("desk-ana"), users("desk-ben"), Root(folder)
        self._popup, self._hidden = None, {}
        for user in (self.ana, self.ben, self._root):
            furnish(user)
        self._terminals = {
            place.name: Terminal(self._root if place.user == "root" else self.ana, place.name) for place in PLACES
        }

    def start(self):
        for place in PLACES:
            self._terminals[place.name].begin(place.begun)
        for number in range(max(len(place.prompts) for place in PLACES)):
            for place in PLACES:
                terminal = self._terminals[place.name]
                if number < len(place.prompts):
                    terminal.wait(place.prompts[number])
                if number < len(place.typed):
                    terminal.type(place.typed[number].replace("{ben}", self.ben.name))
        self._terminals["half"].type(HALF, enter="")
        self._terminals["piped"].tmux("pipe-pane", "-t", "=desk-piped:", "cat >> piped.log")
        self._terminals["plain"].tmux("new-session", "-d", "-t", "desk-plain", "-s", "desk-twin")
        self._open_popup()
        return self

    def _open_popup(self):
        tmux = self._terminals["plain"].tmux
        self.ana.run("screen", "-dmS", "desk-outer")
        socket = self.ana.home / "tmux.sock"
        self._outer("stuff", f"exec tmux -u -S {socket} attach -t =desk-plain\n")
        client = until(lambda: tmux("list-clients", "-F", "#{client_name}").strip(), 240, "a client")
        self._popup = subprocess.Popen(
            ["tmux", "-u", "-S", socket, "display-popup", "-c", client, "-E", "env DESK=popup bash"],
            user=self.ana.uid,
            group=self.ana.gid,
            extra_groups=[],
            cwd=self.ana.home,
            env=self.ana.environment(),
            stdin=subprocess.DEVNULL,
        )
        copy = self.ana.home / "hardcopy"

        def shows():
            self._outer("hardcopy", copy)
            return "popup>" in copy.read_text(errors="replace")

        until(shows, 240, "the popup")

    def _outer(self, *command):
        self.ana.run("screen", "-S", "desk-outer", "-p", "0", "-X", *command)

    def hide(self, restless=False):
        """
        Begin one job in each place, but restless ones only if told to.

        Returns what a probe says of all that are hidden, as regular expressions, by the place's name.
        """
        for place in PLACES:
            if place.name not in self._hidden and restless >= place.restless:
                for line in place.job:
                    self._terminals[place.name].type(line)
                self._hidden[place.name] = rf"(\S*desk-{place.name}\S*|\(no name\)): ({place.seen})"
        if "popup" not in self._hidden:
            self._outer("stuff", "sleep 7721\r")
            self._hidden["popup"] = ".*: sleep 7721"
        return self._hidden

    def end(self):
        end(self.ana, self.ben, self._root)
        if self._popup:
            self._popup.wait()
