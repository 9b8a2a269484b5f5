"""What can be counted about the code, on one page: `make house`. It judges nothing and fails nothing."""

import ast
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PRODUCT = ("schemas", "modelyard", "services", "tools")
OURS = ("schemas", "modelyard", "services", "tools", "tests", "bench")
SHORT_LINES = 60
ASSERTION = re.compile(r"^\s+assert\b|pytest\.(raises|warns)|^\s+raise AssertionError", re.M)


@dataclass
class Module:
    """One Python file of the product, as far as it is counted."""

    path: str
    name: str
    lines: int
    tree: ast.Module
    nodes: list[ast.AST]
    """All nodes of the tree."""
    imports: set[str] = field(default_factory=set)
    """Modules of ours that it imports, wherever in the file."""

    @property
    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        return (
            node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        )


def read_modules(root: Path) -> dict[str, Module]:
    modules = {}
    for folder in PRODUCT:
        for path in sorted((root / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            relative = path.relative_to(root)
            name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
            tree = ast.parse(text)
            modules[name] = Module(str(relative), name, text.count("\n"), tree, list(ast.walk(tree)))
    for module in modules.values():
        module.imports = set(_imported(module.nodes, modules)) - {module.name}
    return modules


def _imported(nodes: Iterable[ast.AST], modules: dict[str, Module]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield from (name for name in (whole, node.module) if name in modules)


def cycles(modules: dict[str, Module]) -> list[list[str]]:
    """Groups of modules that import each other at load time (Tarjan's strongly connected components)."""
    graph = {name: _load_time_imports(module, modules) for name, module in modules.items()}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in graph[name]:
            if target not in index:
                visit(target)
            if target in stack:
                low[name] = min(low[name], low[target])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def _load_time_imports(module: Module, modules: dict[str, Module]) -> set[str]:
    """Without those inside functions and `if TYPE_CHECKING`; a package is no part of a cycle with its own."""
    imports = (node for node in module.tree.body if isinstance(node, ast.Import | ast.ImportFrom))
    return {name for name in _imported(imports, modules) if not module.name.startswith(name)}


def single_importers(modules: dict[str, Module]) -> list[str]:
    """Short modules that only one neighbour imports: slices of it, unless they are worth a file."""
    importers = defaultdict(list)
    for module in modules.values():
        for name in module.imports:
            importers[name].append(module.name)
    return [
        f"{module.path} ({module.lines}) <- {importers[module.name][0]}"
        for module in modules.values()
        if module.lines < SHORT_LINES
        and len(importers[module.name]) == 1
        and module.name.rpartition(".")[0] == importers[module.name][0].rpartition(".")[0]
    ]


def duplicate_classes(modules: dict[str, Module]) -> list[str]:
    places = defaultdict(list)
    for module in modules.values():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module.path)
    return [f"{name}: {', '.join(paths)}" for name, paths in sorted(places.items()) if len(paths) > 1]


def function_imports(modules: dict[str, Module]) -> list[str]:
    found = {
        f"{module.path}:{node.lineno}"
        for module in modules.values()
        for function in module.functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return sorted(found)


def private_names(modules: dict[str, Module]) -> list[str]:
    """Uses of `library._private`, of `from library import _private`, and of private attributes of others."""
    return sorted({use for module in modules.values() for use in _private_uses(module)})


def _private_uses(module: Module) -> Iterator[str]:
    own = {node.name for node in module.nodes if isinstance(node, _DEFINITION)} | _own_attributes(module)
    for node in module.nodes:
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(OURS):
            words = [*node.module.split("."), *(alias.name for alias in node.names)]
            yield from (f"{module.path}:{node.lineno} {word}" for word in words if _is_private(word))
        elif isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in (*own, *_PUBLIC):
            yield f"{module.path}:{node.lineno} .{node.attr}"


_DEFINITION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_PUBLIC = ("_replace", "_asdict", "_fields", "_make", "_exit")
"""Documented, though they begin with an underscore: of named tuples, and `os._exit`."""


def _own_attributes(module: Module) -> set[str]:
    """Private attributes that the module itself assigns or annotates."""
    assigned = {
        node.attr
        for node in module.nodes
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    annotated = {
        node.target.id
        for node in module.nodes
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return assigned | annotated


def _is_private(word: str) -> bool:
    return word.startswith("_") and not word.startswith("__")


def echoing_docstrings(modules: dict[str, Module]) -> list[str]:
    """Docstrings of functions and classes that say no more than the name does."""
    return [
        f"{module.path}:{node.lineno} {node.name}"
        for module in modules.values()
        for node in module.nodes
        if isinstance(node, _DEFINITION) and _echoes(node.name, ast.get_docstring(node) or "")
    ]


def _echoes(name: str, docstring: str) -> bool:
    words = set(re.findall(r"[a-z]+", docstring.lower())) - _FILLERS
    stems = {
        part.rstrip("s") for part in re.findall(r"[a-z]+", re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower())
    }
    return bool(docstring) and all(word.rstrip("s") in stems for word in words)


_FILLERS = {
    "a",
    "an",
    "the",
    "of",
    "this",
    "its",
    "it",
    "in",
    "to",
    "for",
    "is",
    "and",
    "all",
    "every",
    "one",
}


def _spread(name: str, values: Iterable[int]) -> str:
    ordered = sorted(values)
    median, p90 = statistics.median(ordered), ordered[int(len(ordered) * 0.9)]
    sizes = f"median {median:g}, p90 {p90}, max {ordered[-1]}, sum {sum(ordered)}"
    return f"{name:<28} {len(ordered):>6}   {sizes}"


def report(root: Path, *, details: bool) -> Iterator[str]:
    modules = read_modules(root)
    yield _spread("files (lines)", (module.lines for module in modules.values()))
    lengths = [(f.end_lineno or 0) - f.lineno + 1 for module in modules.values() for f in module.functions]
    yield _spread("functions (lines)", lengths)
    for folder in PRODUCT:
        yield f"  {folder:<26} {sum(module.path.startswith(f'{folder}/') for module in modules.values()):>6}"
    tests = [path.read_text(encoding="utf-8") for path in (root / "tests").rglob("*.py")]
    yield f"{'assertions in tests':<28} {sum(len(ASSERTION.findall(text)) for text in tests):>6}"
    rows = {
        "modules with one importer": single_importers(modules),
        "duplicate class names": duplicate_classes(modules),
        "private names of others": private_names(modules),
        "imports in functions": function_imports(modules),
        "import cycles": [" <-> ".join(group) for group in cycles(modules)],
        "docstrings like the name": echoing_docstrings(modules),
        "full folders (over 20)": _full_folders(modules),
    }
    for name, found in rows.items():
        yield f"{name:<28} {len(found):>6}"
        if details:
            yield from (f"    {row}" for row in found)


def _full_folders(modules: dict[str, Module]) -> list[str]:
    counts: dict[str, int] = defaultdict(int)
    for module in modules.values():
        counts[str(Path(module.path).parent)] += 1
    return [f"{folder}: {count}" for folder, count in counts.items() if count > 20]


if __name__ == "__main__":
    where = next((Path(word) for word in sys.argv[1:] if not word.startswith("-")), Path())
    for line in report(where, details="--details" in sys.argv):
        print(line)
