"""Salt's own loaders over the folders of this checkout: fast, without any daemon."""

import pathlib

import salt.config
import salt.fileserver
import salt.loader

from tests.support.salt import tree

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent


class Loaders:
    """
    ``runners``, ``modules``, ``states`` and ``executors``, as Salt loads them, and their common ``context``.

    kind
        ``master`` (runners, and states as an orchestration sees them) or ``minion``.
    options
        Any key of the configuration, for example ``deploytoken={…}``, ``pillar={…}``, ``grains={…}``, ``test=True``.
    """

    def __init__(self, folder, kind="master", **options):
        folder = pathlib.Path(folder)
        paths = {name: folder / name for name in ("cache", "pki", "sock", "extmods")}
        for path in (*paths.values(), paths["cache"] / "proc"):
            path.mkdir(parents=True, exist_ok=True)
        self.opts = {
            **(salt.config.master_config(None) if kind == "master" else salt.config.minion_config(None)),
            "cachedir": str(paths["cache"]),
            "pki_dir": str(paths["pki"]),
            "sock_dir": str(paths["sock"]),
            "extension_modules": str(paths["extmods"]),
            "log_file": str(folder / "log"),
            "file_client": "local",
            "file_roots": {"base": [tree(folder)]},
            "pillar_roots": {"base": []},
            "module_dirs": [str(CHECKOUT)],
            # There is nothing to sync, and no event bus to say so on: it would be looked for during a second.
            "autoload_dynamic_modules": False,
            "id": "main_master" if kind == "master" else "kingfisher-main",
            "__role": kind,
            "pillar": {},
            "grains": {"id": "kingfisher-main", "os": "Debian", "os_family": "Debian", "kernel": "Linux"},
            **options,
        }
        self.context = {}
        self.utils = salt.loader.utils(self.opts)
        self._loaded = {}

    def _once(self, name, load):
        if name not in self._loaded:
            self._loaded[name] = load()
        return self._loaded[name]

    def served(self):
        """The files that a master with this configuration serves, as it lists them."""
        return salt.fileserver.Fileserver(self.opts).file_list({"saltenv": "base"})

    @property
    def modules(self):
        def load():
            return salt.loader.minion_mods(self.opts, utils=self.utils, context=self.context)

        return self._once("modules", load)

    @property
    def runners(self):
        return self._once("runners", lambda: salt.loader.runner(self.opts, utils=self.utils, context=self.context))

    @property
    def states(self):
        def load():
            serializers = salt.loader.serializers(self.opts)
            return salt.loader.states(self.opts, self.modules, self.utils, serializers, context=self.context)

        return self._once("states", load)

    @property
    def executors(self):
        return self._once("executors", lambda: salt.loader.executors(self.opts, self.modules, self.context))

    @property
    def retcode(self):
        """What the last runner left for salt-run's exit code."""
        return self.context.get("retcode", 0)
