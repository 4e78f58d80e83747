"""The execution modules of this tree, loaded by Salt's own loader, without a daemon."""

import json
import pathlib
import shlex
import sys

import salt.config
import salt.loader
import salt.utils.platform


def functions(checkout, folder, busy=None, pillar=None, opts_busy=None, modules=(), minion_id="kingfisher-main"):
    """
    ``__salt__`` of a minion; its ``__context__`` is the attribute ``busy_context``.

    ``busy`` is pillar's key of that name, ``opts_busy`` that of the minion's configuration; ``modules`` are
    folders with a folder ``_modules``, which count before this tree.
    """
    opts = salt.config.minion_config(None)
    folders = {
        "root_dir": str(folder),
        "cachedir": str(folder / "cache"),
        "extension_modules": str(folder / "extmods"),
    }
    opts.update(folders, id=minion_id, file_client="local", module_dirs=[str(checkout), *map(str, modules)])
    if opts_busy is not None:
        opts["busy"] = opts_busy
    opts["pillar"] = pillar if pillar is not None else {"busy": busy} if busy is not None else {}
    opts["grains"] = {
        "os": "Debian",
        "os_family": "Debian",
        "kernel": "Linux",
        "id": minion_id,
        "saltversioninfo": [3006],
    }
    context = {}
    loaded = salt.loader.minion_mods(opts, utils=salt.loader.utils(opts), context=context)
    loaded.busy_context = context
    return loaded


def command(folder, busy):
    """The words of a shell's command that prints what ``busy.check`` says in a process of its own, as JSON."""
    checkout = pathlib.Path(__file__).resolve().parents[2]
    words = [sys.executable, "-m", "tests.support.minion", checkout, folder, json.dumps(busy)]
    return f"cd {shlex.quote(str(checkout))} && {shlex.join(map(str, words))}"


if __name__ == "__main__":
    print(json.dumps(functions(*map(pathlib.Path, sys.argv[1:3]), json.loads(sys.argv[3]))["busy.check"]()))
