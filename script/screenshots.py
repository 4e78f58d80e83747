"""
Pictures of the wiki page for docs/wiki.md: run by ``script/screenshots``, in the environment of the tests.

The Redmine is that of the tests, the master and the minion are those of the demo, the deploy is a real one, and the
page is shown by a real browser to a person who has logged in.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "_utils"), str(ROOT / "script")]

import demo  # noqa: E402

from saltext.deploytoken import page  # noqa: E402
from tests.support import wait  # noqa: E402
from tests.support.browser import Browser  # noqa: E402
from tests.support.redmine import Redmine  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
REASON = "new search on the documentation site"
CONSENT = "Jane Doe, helpdesk"

PAST = (
    page.Hold("Carol Clark", "certificates of the mail server", "2026-11-18 08:05 UTC", "5d0c19e7"),
    page.Hold("Bob Brown", "new kernel", "2026-11-20 16:40 UTC", "b4443eec"),
)
NOTES = {"b4443eec": ["rebooted db1, db2"]}
ENDS = {"5d0c19e7": "2026-11-18 08:21 UTC", "b4443eec": "2026-11-20 17:12 UTC"}

# What docs/wiki.md offers for a History that is a table.
TABLES = {
    "textile": ("|_. When |_. Who |_. What |_. Ref |", "| {until} | {name} | {summary}{notes} | {ref} |"),
    "markdown": (
        "| When | Who | What | Ref |\n|---|---|---|---|",
        "| {until} | {name} | {summary}{notes} | {ref} |",
    ),
}


class Deploy(demo.Demo):
    """The demo's master and minion, with the token on a wiki page."""

    def __init__(self, folder, redmine, address):
        super().__init__(folder)
        self.redmine, self.address = redmine, address
        self.pictured = self.folder / "pictured"

    def _configure(self):
        super()._configure()
        key = self.folder / "redmine.key"
        key.touch(0o600)
        key.write_text(self.redmine.key("alice"))
        master = self.folder / "etc/master"
        options = json.loads(master.read_text())
        options["deploytoken"] |= {"store": self.address, "api_key_file": str(key)}
        del options["deploytoken"]["name"]  # Redmine knows whose key it is
        master.write_text(json.dumps(options))

    def site(self, version):
        # The highstate goes on when its picture has been taken.
        wait_for_it = f"while [ ! -e {self.pictured} ]; do sleep 0.1; done"
        return f"{super().site(version)}\n{wait_for_it}:\n  cmd.run:\n    - timeout: 60\n"

    def is_held(self):
        return page.read(self.redmine.text(self.address)) is not None

    def deploy(self):
        """The deploy of this picture, in the background."""
        self.pictured.unlink(missing_ok=True)
        pillar = {"deploytoken": {"target": "docs", "reason": REASON, "consent": CONSENT}}
        process = subprocess.Popen(
            ["salt-run", "state.orchestrate", "deploytoken.deploy", f"pillar={json.dumps(pillar)}"],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        demo.remember(self.folder, process)
        return process


def main():
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="deploytoken-redmine-") as wiki:
        redmine = Redmine(wiki, ROOT / ".cache" / "redmine")
        try:
            redmine.start()
            take_all(redmine)
        finally:
            redmine.stop()


def take_all(redmine):
    address = redmine.new_page(page.initial(), title="Deploy_token")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="deploytoken-demo-", dir="/tmp")).resolve()
    deploy = Deploy(folder, redmine, address)
    try:
        deploy.set_up()
        deploy.spider_on()
        with Browser() as browser:
            log_in(browser, redmine)
            for markup in TABLES:
                with redmine.setting("text_formatting", markup):
                    take_deploy(browser, deploy, markup)
                    take_table(browser, redmine, address, markup)
    finally:
        if not demo.end(folder):
            sys.exit(1)


def log_in(browser, redmine):
    browser.open(f"{redmine.url}/login")
    browser.evaluate("username.value = 'alice'; password.value = 'a long alice password'")
    browser.follow("document.querySelector('#login-form form').submit()")


def take_deploy(browser, deploy, markup):
    deploy.redmine.edit(deploy.address, with_past(page.initial(markup), page.DEFAULT.entry))
    take(browser, deploy.address, f"{markup}-before", "Held by: nobody")
    process = deploy.deploy()
    wait.until(
        lambda: process.poll() is not None or page.read(deploy.redmine.text(deploy.address)),
        120,
        "the token to be taken",
    )
    take(browser, deploy.address, f"{markup}-during", f"Held by: Alice Adams ({REASON}; since ")
    deploy.pictured.touch()
    output, _ = process.communicate(timeout=120)
    if process.returncode:
        raise SystemExit(f"The deploy failed:\n{output}")
    take(browser, deploy.address, f"{markup}-after", f"Alice Adams: {REASON}; with the consent of {CONSENT}")


def take_table(browser, redmine, address, markup):
    header, entry = TABLES[markup]
    redmine.edit(address, with_past(f"{page.initial(markup)}\n{header}\n", entry))
    take(browser, address, f"{markup}-table", "rebooted db1, db2")


def with_past(text, entry):
    for hold in PAST:
        line = page.render_entry(
            hold, page.Rules(entry=entry), until=ENDS[hold.ref], summary=hold.reason, notes=NOTES.get(hold.ref, ())
        )
        text = page.add_entry(text, line)
    return text


def take(browser, address, name, says):
    """A picture of the page, from its title to its last line; it must say what it is a picture of."""
    browser.open(address)
    shown = browser.evaluate("document.querySelector('.wiki-page').innerText")
    if says not in shown:
        raise SystemExit(f"{name}: the page does not say {says!r}:\n{shown}")
    path = PICTURES / f"{name}.png"
    browser.picture(path, "#content", until=".wiki-page", below=8)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
