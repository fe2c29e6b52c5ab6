"""Start-up check: is this the SGLang that the hooks were written for?

Reads SGLang's sources instead of importing them: the check runs before a model loads, and some of
these modules read environment variables at import that SGLang sets only later.
"""

import ast
import importlib.util
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sglang_lsm.errors import ConfigError

from sglang_lsm_patch.versions import FIELDS, METHODS, TESTED_SGLANG

Symbols = Mapping[str, tuple[str, ...]]


def require_compatible() -> None:
    """Raise ConfigError unless the installed SGLang is one this package was tested with."""
    installed = installed_version()
    if installed not in TESTED_SGLANG:
        raise ConfigError(
            f"this SGLang was not tested with --kv-storage; tested: {', '.join(TESTED_SGLANG)}. "
            f"sglang={installed}"
        )
    changed = changed_symbols(sglang_root(), METHODS, FIELDS)
    if changed:
        raise ConfigError(
            "this SGLang differs from the release that --kv-storage was tested with. "
            f"sglang={installed} {'; '.join(changed)}"
        )


def installed_version() -> str:
    """Return the version of the installed SGLang distribution, or `none`."""
    try:
        return version("sglang")
    except PackageNotFoundError:
        return "none"


def sglang_root() -> Path:
    """Return the folder of the installed `sglang` package.

    Raises:
        ConfigError: SGLang is not installed.
    """
    spec = importlib.util.find_spec("sglang")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("sglang is not installed beside sglang-lsm")
    return Path(spec.submodule_search_locations[0])


def changed_symbols(root: Path, methods: Symbols, fields: Symbols) -> list[str]:
    """Return one clause for each recorded symbol that the sources under `root` do not have so."""
    trees: dict[str, ast.Module | None] = {}
    clauses: list[str] = []
    for recorded, read in ((methods, _parameters), (fields, _fields)):
        for place, expected in recorded.items():
            path, _, dotted = place.partition(":")
            if path not in trees:
                trees[path] = _parse(root / path)
            node = _find(trees[path], dotted.split("."))
            found = read(node) if node is not None else None
            if found != expected:
                clauses.append(f"{dotted}: expected={expected} found={found}")
    return clauses


def _parse(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return None


def _find(node: ast.AST | None, names: list[str]) -> ast.AST | None:
    for name in names:
        body = getattr(node, "body", [])
        node = next((child for child in body if getattr(child, "name", None) == name), None)
    return node


def _parameters(node: ast.AST) -> tuple[str, ...] | None:
    if not isinstance(node, ast.FunctionDef):
        return None
    spec = node.args
    names = [a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
    names += [f"*{spec.vararg.arg}"] if spec.vararg else []
    return tuple(names + ([f"**{spec.kwarg.arg}"] if spec.kwarg else []))


def _fields(node: ast.AST) -> tuple[str, ...] | None:
    if not isinstance(node, ast.ClassDef):
        return None
    return tuple(
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    )
