"""Imports go one way: schemas <- modelyard <- services, and no service knows another."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "modelyard", "services")


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file names in an import."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""


@pytest.mark.parametrize("path", files("schemas"), ids=str)
def test_schemas_import_only_msgspec_and_the_standard_library(path: Path) -> None:
    tops = {module.split(".")[0] for module in imported(path)}
    assert tops <= {"schemas", "msgspec"} | sys.stdlib_module_names


def test_modelyard_imports_no_service() -> None:
    guilty = [
        path for path in files("modelyard") for module in imported(path) if module.startswith("services")
    ]
    assert guilty == []


def test_no_service_imports_another() -> None:
    for path in files("services"):
        own = path.relative_to(ROOT / "services").parts[0]
        for module in imported(path):
            if module.startswith("services."):
                assert module.split(".")[1] == own, f"{path} imports {module}"


def test_no_service_imports_the_command_line() -> None:
    for path in files("services"):
        for module in imported(path):
            assert module.split(".")[:2] != ["modelyard", "cli"], f"{path} imports {module}"


def test_all_packages_are_checked() -> None:
    assert all(files(package) for package in PACKAGES)
