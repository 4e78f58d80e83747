"""A file that Salt loads alone, without Salt."""

import importlib.util
import pathlib

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent.parent


def load_alone(path):
    """The module in the file at this path of the checkout, which may have the name of another module."""
    name = path.strip("_").replace("/", "_").removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, CHECKOUT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
