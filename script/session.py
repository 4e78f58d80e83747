"""
What people see, recorded: run by ``script/session``, in the environment of the tests.

Each command runs for real on the demo's master and minion, and must end as told. What it prints, errors included,
goes into docs/session.md; some of it into README.md too, in place of what stands there below its mark, such as
``<!-- session: blocked -->``.
What is changed: the demo's folder, for those of a real master; lines longer than 80 columns, which are folded; and
Salt's warnings of its own, which are left out.
"""

import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "script"), str(ROOT / "_utils")]

import demo  # noqa: E402

from saltext.deploytoken.gate import live  # noqa: E402

WIDTH = 80
DEPLOY = demo.Demo.DEPLOY.replace("salt-run ", "salt-run --quiet -l quiet ")
# What Salt 3008.3 says of itself on standard error: of each client that it leaves open, and of Python 3.11.
NOISE = re.compile(r"(\[WARNING *\] )?unclosed \w+ <salt\.|.* DeprecationWarning: 'crypt'|  import crypt")
INTRODUCTION = """# What it looks like

<!-- Recorded by script/session, which writes this page anew: change it there. -->

Recorded by `script/session` from a real run, with Salt {version}. Only paths are changed, lines longer than 80
columns are folded, and Salt's warnings about its own unclosed clients are left out. No colours are needed. With
`--out=json` each answer is data.

A deploy prints its progress, and ends with a page to read and to paste. `--quiet -l quiet` leaves it at that.
Without them, Salt shows its log and its own list of the states as well.
"""


class Session(demo.Demo):
    """The demo's services; the page as it comes together."""

    def __init__(self, folder):
        super().__init__(folder)
        self.text = []
        self.blocks = {}

    # Writing

    def say(self, text):
        self.text.append(text.strip("\n"))

    def record(self, command, name=None, code=0, says=()):
        """Run a command and show it with what it prints. Returns that, unfolded."""
        print(f"$ {command}", flush=True)
        done = subprocess.run(
            shlex.split(command),
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=180,
        )
        flat = " ".join(done.stdout.split())
        ended = done.returncode == code or (code is None and done.returncode)
        if not ended or not all(words in flat for words in says):
            raise demo.Unexpected(f"`{command}` ended with code {done.returncode}:\n{done.stdout}")
        self.say(f"```console\n$ {typed(command)}\n{folded(self._as_on_a_master(done.stdout))}\n```")
        if name:
            self.blocks[name] = self.text[-1]
        return done.stdout

    def show_the_page(self):
        self.say(f"```text\n{folded(self.page())}\n```")

    def _as_on_a_master(self, text):
        text = text.replace(str(self.database), "/var/lib/deploytoken/token.db")
        text = text.replace(f"{self.folder} ", "/var/lib/deploytoken ").replace(str(self.folder), "")
        return "\n".join(line for line in text.splitlines() if not NOISE.match(line))

    # The story

    def site(self, version):
        state = f"the site:\n  file.managed:\n    - name: {self.page_file}\n    - makedirs: True\n"
        return f"{state}    - contents: Version {version}\n"

    def play(self):
        self.run("salt-run deploytoken.init --out=yaml", quiet=True)
        self.token()
        self.busy()
        self.deploy()
        self.failure()
        self.gate()
        self.looking_back()

    def token(self):
        self.say("## Taking the token")
        self.record('salt-run deploytoken.acquire reason="upgrade PostgreSQL" expect=2h', says=["Alice"])
        self.say("Meanwhile, Bob. The exit code is 3.")
        refused = 'salt-run deploytoken.acquire reason="fix the mail queue" name=Bob'
        self.record(refused, code=3, says=["Alice holds the token"])
        self.say("## Who holds it?")
        self.record("salt-run deploytoken.status", says=["Alice"])
        self.say("## Giving it back\n\n`entry` is the line that now stands under History.")
        self.record('salt-run deploytoken.release summary="upgraded PostgreSQL" rebooted=web1', says=["rebooted web1"])

    def busy(self):
        self.say("## Is a server busy?\n\nThe longest-running first. The exit code is 7.")
        self.spider_on()
        self.record("salt-run busy.check docs", code=7, says=["jd-import-data"])

    def deploy(self):
        self.commit("states", {"site.sls": self.site(2)}, "Version 2")
        self.say("## A deploy that is blocked\n\nThe spider and the import stop it. The exit code is 1.")
        self.record(DEPLOY, "blocked", code=1, says=["jd-import-data"])
        self.spider_off()
        self.say("## What would a deploy do?\n\nOnce both have finished. Nothing is written.")
        self.record(DEPLOY.replace("}}'", ', "test": true}}\''), says=["nothing was changed"])
        self.say("## A deploy")
        self.record(DEPLOY, says=["publish version 2"])
        self.say("The wiki page now:")
        self.show_the_page()

    def failure(self):
        check = f"check the site:\n  cmd.run:\n    - name: test -e ready\n    - cwd: {self.folder}/srv\n"
        broken = f"{self.site(3)}{check}"
        self.commit("states", {"site.sls": broken}, "Version 3")
        self.say(
            "## A deploy that fails\n\nThe token stays held, because somebody has to look. The page says how to go on."
        )
        command = DEPLOY.replace("version 2", "version 3")
        output = self.record(command, code=1, says=["deploytoken.release"])
        self.say("The wiki page now:")
        self.show_the_page()
        ref = demo.found(r"ref=?\W*([0-9a-f]{8})", output)
        (self.folder / "srv/ready").touch()
        self.say("Alice has mended it, and goes on under the same hold:")
        self.record(command.replace("}}'", f', "ref": "{ref}"}}}}\''), says=["publish version 3"])

    def gate(self):
        time.sleep(live.MAX_AGE)  # for so long, what the page said before the release serves every gate
        self.say("## The gate\n\nSomebody runs states without the token:")
        self.record("salt docs state.apply", code=None, says=["nobody holds the deploy token"])

    def looking_back(self):
        self.say("## Who held it before?\n\nFrom the page's versions: what happened, whatever stands under History.")
        self.record("salt-run deploytoken.history", "history", says=["Alice"])
        self.say("## Is everything set up?")
        self.record("salt-run deploytoken.doctor", says=["ok"])


def typed(command):
    """A long command in two lines, as one could type or paste it; Pygments knows no string of two lines here."""
    return command if len(command) <= WIDTH - 2 else command.replace(" pillar=", " \\\n    pillar=")


def folded(text):
    """Lines of at most 80 columns; what goes on keeps the indentation of its line, and two columns more."""
    lines = []
    for line in text.rstrip().splitlines():
        indent = re.match(r"\s*", line)[0]
        while len(line) > WIDTH:
            at = line.rfind(" ", len(indent) + 1, WIDTH + 1)
            if at < 0:
                break
            lines.append(line[:at].rstrip())
            line = f"{indent}  {line[at + 1 :]}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def write(session):
    import salt.version

    page = INTRODUCTION.format(version=salt.version.__version__) + "\n" + "\n\n".join(session.text) + "\n"
    (ROOT / "docs/session.md").write_text(page, encoding="utf-8")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, block in session.blocks.items():
        text = re.sub(
            rf"(<!-- session: {name} -->\n)```console\n.*?\n```",
            lambda match, block=block: match[1] + block,
            text,
            flags=re.S,
        )
    readme.write_text(text, encoding="utf-8")


def main():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="deploytoken-demo-", dir="/tmp")).resolve()
    session = Session(folder)
    try:
        session.set_up()
        session.play()
        write(session)
    except demo.Unexpected as error:
        print(f"Not as told: {error}", file=sys.stderr)
        return 1
    finally:
        ended = demo.end(folder)
    return 0 if ended else 1


if __name__ == "__main__":
    sys.exit(main())
