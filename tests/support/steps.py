"""State modules of this tree without Salt's loader: a test gives them the dunders that it wants."""

import importlib.util
import pathlib

STATES = pathlib.Path(__file__).parents[2] / "_states"


def load(name, **dunders):
    """A fresh module ``_states/NAME.py``; ``opts={…}`` becomes its ``__opts__``."""
    spec = importlib.util.spec_from_file_location(f"{name}_states", STATES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for key, value in dunders.items():
        setattr(module, f"__{key}__", value)
    return module
