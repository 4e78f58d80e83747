"""
A real Apache for the tests: what companies have in front of their Redmine, and a forward proxy. Debian's package
``apache2-bin`` has the program alone, and no service of the machine's.
"""

import base64
import hashlib
import pathlib
import shutil
import tempfile

from tests.support import process, wait

PROGRAM = pathlib.Path("/usr/sbin/apache2")
MODULES = (
    *("mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic"),
    *("proxy", "proxy_http", "proxy_connect", "socache_shmcb", "ssl"),
)


class Apache:
    """
    One running Apache. ``sites`` has the lines of its configuration by the name of a site, each on a port of its own.
    In them, ``{folder}`` is a folder that Apache may read.

    ``urls[name]`` are the addresses (``https://`` where the site has ``SSLEngine``). ``log(name)`` has the requests so
    far: the first line, and the headers with which somebody may give away a secret.
    """

    def __init__(self, sites):
        if not PROGRAM.exists():
            raise AssertionError("Apache is not installed: run script/test, which installs it")
        self._sites = sites
        # Not below pytest's folder: that is root's alone, and Apache gives root's rights up.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="apache"))
        self.folder.chmod(0o755)
        ports = {name: process.free_port() for name in sites}
        self.urls = {
            name: f"http{'s' if 'SSLEngine on' in lines else ''}://127.0.0.1:{ports[name]}"
            for name, lines in sites.items()
        }
        self._ports = ports
        self._process = None

    def users(self, **passwords):
        """Write the names and passwords of ``AuthUserFile {folder}/users``."""
        lines = (f"{name}:{{SHA}}{_sha(password)}\n" for name, password in passwords.items())
        (self.folder / "users").write_text("".join(lines))

    def start(self):
        seen = "%{X-Redmine-API-Key}i %{Authorization}i %{Proxy-Authorization}i"
        lines = [
            f"ServerRoot {self.folder}",
            f"DefaultRuntimeDir {self.folder}",
            f"PidFile {self.folder}/apache.pid",
            f"ErrorLog {self.folder}/error.log",
            f"DocumentRoot {self.folder}",
            "ServerName localhost",
            "User www-data",
            "Group www-data",
            "StartServers 1",
            *(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in MODULES),
        ]
        for name, site in self._sites.items():
            listen = f"127.0.0.1:{self._ports[name]}"
            lines += [
                f"Listen {listen}",
                f"<VirtualHost {listen}>",
                f'CustomLog "{self.folder}/{name}.log" "\\"%r\\" {seen}"',
            ]
            lines += [site.replace("{folder}", str(self.folder)), "</VirtualHost>"]
        (self.folder / "apache.conf").write_text("\n".join(lines) + "\n")
        command = [PROGRAM, "-D", "FOREGROUND", "-f", self.folder / "apache.conf"]
        self._process = process.start(command, self.folder / "output.log")

        def up():
            if self._process.poll() is not None:
                raise RuntimeError(f"Apache ended:\n{process.tail(self.folder / 'output.log')}")
            return all(map(process.listening, self._ports.values()))

        wait.until(up, 60, "Apache to listen")
        return self

    def log(self, name):
        path = self.folder / f"{name}.log"
        return path.read_text().splitlines() if path.exists() else []

    def stop(self):
        if self._process:
            process.end(self._process)
        shutil.rmtree(self.folder)


def _sha(password):
    return base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()
