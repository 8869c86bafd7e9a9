"""The demo's corpus: the documentation of the Python that runs this, as JSON lines. Real texts, no download.

One object a docstring of a public module, class, function or method of the standard library. Modules with source are
parsed, not imported, so nothing runs; the built-in ones, which have no source, are imported and inspected.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

Doc = tuple[str, str, str]  # qualified name, kind, docstring
SKIPPED = (
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "__pycache__",
    "turtledemo",
    "ensurepip",
    "pydoc_data",
)


def source_docs(root: Path) -> Iterator[Doc]:
    """Docstrings of the modules with source below `root`, in the order of their names."""
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if any(part in SKIPPED or (part.startswith("_") and part != "__init__") for part in parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        yield from node_docs(tree, ".".join(part for part in parts if part != "__init__"), "module")


def node_docs(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str, kind: str
) -> Iterator[Doc]:
    """The docstring of a definition, then those of the public definitions in it."""
    text = ast.get_docstring(node)
    if text:
        yield name, kind, text
    if kind == "function":
        return
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            child_kind = "class" if isinstance(child, ast.ClassDef) else "function"
            yield from node_docs(child, f"{name}.{child.name}", child_kind)


def builtin_docs() -> Iterator[Doc]:
    """Docstrings of the public modules that have no source: built into the interpreter, or compiled."""
    folder = Path(sysconfig.get_path("stdlib"))
    for name in sorted(sys.stdlib_module_names):
        if name.startswith("_") or (folder / f"{name}.py").exists() or (folder / name).exists():
            continue
        try:
            module = importlib.import_module(name)
        except ImportError:  # a module of another platform
            continue
        yield from object_docs(module, name, "module")


def object_docs(value: object, name: str, kind: str) -> Iterator[Doc]:
    """The docstring of an object, then those of its own public members."""
    text = inspect.getdoc(value)
    if text:
        yield name, kind, text
    if kind == "function":
        return
    for member, child in sorted(vars(value).items()):
        if member.startswith("_"):
            continue
        if inspect.isclass(child) and child.__module__ in (name, "builtins"):
            yield from object_docs(child, f"{name}.{member}", "class")
        elif inspect.isroutine(child):
            yield from object_docs(child, f"{name}.{member}", "function")


def write_corpus(path: Path) -> int:
    """Write the corpus as JSON lines (id, text, module, kind); the number of texts. An id stands once."""
    docs: dict[str, Doc] = {}
    for doc in (*source_docs(Path(sysconfig.get_path("stdlib"))), *builtin_docs()):
        docs.setdefault(doc[0], doc)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for name, kind, text in docs.values():
            file.write(json.dumps({"id": name, "text": text, "module": name.split(".")[0], "kind": kind}) + "\n")
    return len(docs)


if __name__ == "__main__":
    print(write_corpus(Path(sys.argv[1])))
