"""Public names of a package that are imported when they are first used.

So `import flair_jax` takes milliseconds, input workers and the command line's help start fast, and to tokenise or to
read pictures loads no JAX.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping


def public(
    package: str, names: Mapping[str, Iterable[str]], rooms: Iterable[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Makes a package's `__getattr__`, `__dir__` and `__all__` (PEP 562).

    A type checker reads the same names under `if TYPE_CHECKING`.

    Args:
      package: its name.
      names: module, below the package -> the names in it that are public.
      rooms: modules of the package that are public themselves.
    """
    home = {name: module for module, each in names.items() for name in each}
    rooms = frozenset(rooms)
    everything = sorted({*home, *rooms})

    def get(name: str) -> object:
        if name in home:
            return getattr(importlib.import_module(f"{package}.{home[name]}"), name)
        if name in rooms:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=sys.modules.get(package))

    def listed() -> list[str]:
        return [*everything, *(name for name in vars(sys.modules[package]) if name.startswith("__"))]

    return get, listed, everything
