"""Write down every public name with its signature, a line each: what users and plugin authors build on.

python tests/api_snapshot.py            prints it
python tests/api_snapshot.py --write    replaces tests/api_snapshot.txt by it
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
FILE = HERE / "api_snapshot.txt"
FOLDERS = [*HERE.parent.glob("*_plugin/src"), *HERE.parent.glob("plugins/segmentation/src")]
PLUGINS = sorted(path.parent.name for folder in FOLDERS for path in folder.glob("*/__init__.py"))
MODULES = ["graftwork", "graftwork.api", "graftwork.plugins", "graftwork.testing", *PLUGINS]
PLAIN = (bool, int, float, str, tuple, type(None))


def snapshot() -> str:
    """Describe all modules, then the hooks, under a heading each."""
    homes = public_classes()
    parts = [f"# {name}\n" + "\n".join(module_lines(importlib.import_module(name), homes)) for name in MODULES]
    return "\n\n".join([*parts, "# hooks\n" + "\n".join(hook_lines())]) + "\n"


def public_classes() -> dict[Any, str]:
    """Return the first public name of every public object that has an identity."""
    homes: dict[Any, str] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for attribute in module.__all__:
            value = getattr(module, attribute)
            if inspect.isclass(value) or inspect.isfunction(value):
                homes.setdefault(value, f"{name}.{attribute}")
    return homes


def module_lines(module: ModuleType, homes: dict[Any, str]) -> Iterator[str]:
    """Describe the public names of a module, sorted; what another module offers too is described there."""
    for name in sorted(module.__all__):
        value, full = getattr(module, name), f"{module.__name__}.{name}"
        home = homes.get(value) if inspect.isclass(value) or inspect.isfunction(value) else None
        if home not in (None, full):
            yield f"{full} = {home}"
        elif inspect.isclass(value):
            yield from class_lines(full, value, homes)
        elif callable(value):
            yield f"{full}{signature(value)}"
        else:
            yield f"{full}: {type(value).__name__}{shown(value)}"


def class_lines(full: str, cls: type, homes: dict[Any, str]) -> Iterator[str]:
    """Describe a class: its bases, then its public members with those of bases that are not public themselves."""
    yield f"{full}: class({', '.join(base.__name__ for base in cls.__bases__)})"
    members: dict[str, str] = {}
    for owner in cls.__mro__:
        if owner is cls or (owner.__module__.startswith("graftwork") and owner not in homes):
            for name, line in member_lines(owner):
                members.setdefault(name, line)
    yield from (f"{full}.{line}" for _, line in sorted(members.items()))


def member_lines(cls: type) -> Iterator[tuple[str, str]]:
    """Describe what a class itself defines and people may use."""
    annotations = inspect.get_annotations(cls)
    for name, value in {**dict.fromkeys(annotations), **vars(cls)}.items():
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(value, property | cached_property):
            getter = value.fget if isinstance(value, property) else value.func
            yield name, f"{name}: property{signature(getter)}"
        elif isinstance(value, staticmethod | classmethod):
            yield name, f"{name}: {type(value).__name__}{signature(value.__func__)}"
        elif inspect.isfunction(value):
            yield name, f"{name}{signature(value)}"
        elif name in annotations:
            # A field's default is in the signature of __init__; a slot has none to show.
            own = "" if inspect.ismemberdescriptor(value) or name not in vars(cls) else shown(value)
            yield name, f"{name}: {annotations[name]}{own}"
        elif isinstance(value, PLAIN):
            yield name, f"{name}{shown(value)}"


def hook_lines() -> Iterator[str]:
    """Describe the hooks, with how pluggy treats each."""
    from graftwork.plugins import hookspecs

    for name, hook in sorted(vars(hookspecs).items()):
        if name.startswith("graftwork_"):
            kinds = [kind for kind in ("firstresult", "historic") if hook.graftwork_spec[kind]]
            yield f"{name}{signature(hook)}" + (f" [{', '.join(kinds)}]" if kinds else "")


class Bare(str):
    """Be an annotation that is shown without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def signature(function: Any) -> str:
    """Return a signature without what differs from process to process."""
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return "(…)"
    bare = [p.replace(annotation=unquoted(p.annotation)) for p in found.parameters.values()]
    text = str(found.replace(parameters=bare, return_annotation=unquoted(found.return_annotation)))
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def unquoted(annotation: Any) -> Any:
    return Bare(annotation) if isinstance(annotation, str) else annotation


def shown(value: object) -> str:
    """Return a plain value as it would be assigned; nothing for any other."""
    return f" = {value!r}" if isinstance(value, PLAIN) else ""


if __name__ == "__main__":
    text = snapshot()
    if "--write" in sys.argv[1:]:
        FILE.write_text(text, encoding="utf-8")
    else:
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
        sys.stdout.write(text)
