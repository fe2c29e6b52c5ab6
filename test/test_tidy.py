"""House rules that a linter cannot say. Each message names what to do instead.

A rule is a function from one file to complaints, so that the last tests can show it bad examples.
"""

import ast
import contextlib
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = re.compile(
    r"\.git|\.venv|\.cache|\.\w+_cache|\.hypothesis|__pycache__|build|.*\.egg-info"
)
ENGINE = "python/sglang_lsm/"
PATCH = "sglang_lsm_patch/"

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 70

LAYERS = (
    {"clock", "errors", "config", "pages"},
    {
        "codec",
        "keycodec",
        "format",
        "fs",
        "gate",
        "load_gate",
        "observability",
        "periodic",
        "speed",
    },
    {"index", "tensorlog", "eviction"},
    {"directory", "catalog", "catalog_loader", "stored_rows"},
    {"admission", "copying", "holds", "lookup", "recovery", "room"},
    {"encoding", "merge", "segment_merge"},
    {"background"},
    {"store", "survey"},
    {"controller", "services"},
    {"cli"},
)
"""Of the engine, lowest first: a module imports from its own layer and from those below."""

FILE_CALLS = {
    "os": {
        "open", "rename", "replace", "unlink", "remove", "truncate", "ftruncate", "fsync",
        "fdatasync", "mkdir", "makedirs", "rmdir", "link", "symlink", "posix_fallocate",
    },
    "shutil": {"rmtree", "move", "copy", "copyfile", "copytree"},
}  # fmt: skip
PATH_METHODS = {"read_text", "read_bytes", "write_text", "write_bytes"}

# Written so that this file does not match itself.
MACHINE_PATH = re.compile(
    r"(?<![\w.~}])/(?:" + "|".join(("work", "root", "home", "Users")) + r")/\w"
)


class SourceFile(NamedTuple):
    """One file of the repository: its path from the root, with slashes, and its text."""

    path: str
    text: str

    @property
    def module(self) -> str:
        """Dotted name as it is imported, like `sglang_lsm.store`."""
        dotted = self.path.removeprefix("python/").removesuffix(".py").replace("/", ".")
        return dotted.removesuffix(".__init__")


@cache
def files(suffix: str) -> tuple[SourceFile, ...]:
    return tuple(file for file in every_file() if file.path.endswith(suffix))


@cache
def every_file() -> tuple[SourceFile, ...]:
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if not SKIPPED.fullmatch(name))
        # In a linked working tree `.git` is a file, and Git's.
        for path in (Path(folder, name) for name in sorted(names) if name != ".git"):
            # Pictures and archives have no lines to look at.
            with contextlib.suppress(UnicodeDecodeError):
                text = path.read_text(encoding="utf-8")
                found.append(SourceFile(path.relative_to(ROOT).as_posix(), text))
    return tuple(found)


@cache
def tree(file: SourceFile) -> ast.Module:
    return ast.parse(file.text)


@cache
def imports(file: SourceFile) -> frozenset[str]:
    """Dotted names that a file imports; `from a import b` counts as `a` and as `a.b`."""
    names: set[str] = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


def too_long(file: SourceFile) -> Iterator[str]:
    num_lines = sum(1 for line in file.text.splitlines() if line.strip())
    if num_lines > MAX_FILE_LINES:
        yield f"{num_lines} lines; split it by noun, {MAX_FILE_LINES} is the limit"
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            num_lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            if num_lines > MAX_FUNCTION_LINES:
                yield (
                    f"{node.name} has {num_lines} lines; take out the steps as functions, "
                    f"{MAX_FUNCTION_LINES} is the limit"
                )


def layer_of(module: str) -> int | None:
    part = module.split(".")[1]
    return next((rank for rank, parts in enumerate(LAYERS) if part in parts), None)


def imports_upwards(file: SourceFile) -> Iterator[str]:
    parts = file.module.split(".")
    ours = {name for name in imports(file) if name.split(".")[0] == "sglang_lsm"}
    if len(parts) == 1:
        return
    if parts[1] == "kernels":
        for name in sorted(ours):
            if not name.startswith("sglang_lsm.kernels"):
                yield f"a kernel imports nothing of ours; pass it as an argument: {name}"
        return
    own = layer_of(file.module)
    if own is None:
        yield f"not in a layer; add {parts[1]!r} to LAYERS in test/test_tidy.py"
        return
    above = {name for name in ours if name.count(".") and (layer_of(name) or 0) > own}
    for name in sorted(above):
        if name.rpartition(".")[0] not in above:
            yield f"imports {name} from a layer above; pass it in, or move what is shared down"


def imports_sglang(file: SourceFile) -> Iterator[str]:
    for name in sorted(imports(file)):
        if name.split(".")[0] in ("sglang", "sglang_lsm_patch"):
            yield f"the engine does not know SGLang; do it in sglang_lsm_patch: {name}"


def touches_files(file: SourceFile) -> Iterator[str]:
    for node in ast.walk(tree(file)):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(id="open"):
                name = "open"
            case ast.Attribute(value=ast.Name(id=owner), attr=attr) if attr in FILE_CALLS.get(
                owner, ()
            ):
                name = f"{owner}.{attr}"
            case ast.Attribute(attr=attr) if attr in PATH_METHODS:
                name = attr
            case _:
                continue
        yield f"line {node.lineno} calls {name}; only sglang_lsm.fs touches files, add it there"


def machine_paths(file: SourceFile) -> Iterator[str]:
    for number, line in enumerate(file.text.splitlines(), 1):
        if found := MACHINE_PATH.search(line):
            yield f"line {number} names a machine's path; make it relative: {found[0]}"


def titles(file: SourceFile) -> Iterator[str]:
    prose = re.sub(r"^```.*?^```", "", file.text, flags=re.DOTALL | re.MULTILINE)
    num_titles = len(re.findall(r"^# \S", prose, flags=re.MULTILINE))
    if num_titles != 1:
        yield f"{num_titles} lines start with '# '; keep one title and use '## ' below it"


def no_mirror_test(file: SourceFile) -> Iterator[str]:
    """A module without a function has nothing to test."""
    module = Path(file.path.removeprefix(ENGINE))
    mirror = Path("test", module.parent, f"test_{module.name}")
    functions = (n for n in ast.walk(tree(file)) if isinstance(n, ast.FunctionDef))
    if module.name != "__init__.py" and any(functions) and not (ROOT / mirror).exists():
        yield f"has no mirror; write {mirror.as_posix()}"


def check(rule, scanned):
    fail_with([f"{file.path}: {text}" for file in scanned for text in rule(file)])


def fail_with(complaints):
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


def engine_files():
    return [file for file in files(".py") if file.path.startswith(ENGINE)]


def test_length():
    check(too_long, files(".py"))


def test_import_direction():
    check(imports_upwards, engine_files())


def test_engine_does_not_know_sglang():
    check(imports_sglang, engine_files())


def test_only_fs_touches_files():
    scanned = [file for file in engine_files() if file.path != f"{ENGINE}fs.py"]
    check(touches_files, scanned)


def test_mirror_tests():
    check(no_mirror_test, engine_files())


def test_every_module_is_used():
    """Imported somewhere beside its tests, or named in full where SGLang or pip looks it up."""
    users = [file for file in (*files(".py"), *files(".toml")) if not file.path.startswith("test/")]
    unused = []
    for file in files(".py"):
        if not file.path.startswith((ENGINE, PATCH)) or file.path.endswith("__init__.py"):
            continue
        used = any(
            file.module in user.text or file.module in imports(user)
            if user.path.endswith(".py")
            else file.module in user.text
            for user in users
            if user != file
        )
        if not used:
            unused.append(f"{file.path}: nobody imports it; delete it, or use it")
    fail_with(unused)


def test_no_machine_paths():
    check(machine_paths, every_file())


def test_one_title():
    check(titles, files(".md"))


LONG_FUNCTION = "def f():\n" + "    pass\n" * (MAX_FUNCTION_LINES + 1)


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (too_long, "x.py", "a = 1\n" * (MAX_FILE_LINES + 1)),
        (too_long, "x.py", LONG_FUNCTION),
        (imports_upwards, f"{ENGINE}format.py", "from sglang_lsm.store import Store"),
        (imports_upwards, f"{ENGINE}format.py", "from sglang_lsm import store"),
        (imports_upwards, f"{ENGINE}kernels/gather.py", "from sglang_lsm.pages import PagePath"),
        (imports_upwards, f"{ENGINE}novelty.py", ""),
        (imports_sglang, f"{ENGINE}store.py", "def f():\n    import sglang.srt"),
        (touches_files, f"{ENGINE}store.py", "open('x')"),
        (touches_files, f"{ENGINE}store.py", "os.unlink('x')"),
        (touches_files, f"{ENGINE}store.py", "path.read_bytes()"),
        (no_mirror_test, f"{ENGINE}novelty.py", "def f(): pass"),
        (machine_paths, "x.md", "see /" + "home/someone"),
        (titles, "x.md", "no title"),
        (titles, "x.md", "# One\n# Two"),
    ],
)
def test_rule_notices(rule, path, text):
    assert list(rule(SourceFile(path, text)))


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (imports_upwards, f"{ENGINE}store.py", "from sglang_lsm.tensorlog.log import TensorLog"),
        (imports_upwards, f"{ENGINE}config.py", "from sglang_lsm.errors import ConfigError"),
        (imports_sglang, f"{ENGINE}store.py", "import sglang_lsm.errors"),
        (touches_files, f"{ENGINE}cli/main.py", "Store.open(directory, config)"),
        (no_mirror_test, f"{ENGINE}novelty.py", "class NoveltyError(Exception): pass"),
        (titles, "x.md", "# One\n```sh\n# a comment\n```\n"),
        (machine_paths, "x.md", "~/" + "work/x or $HOME/" + "root/x"),
    ],
)
def test_rule_allows(rule, path, text):
    assert not list(rule(SourceFile(path, text)))
