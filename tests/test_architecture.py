# SPDX-License-Identifier: Apache-2.0
"""The rooms of the package and the arrows between them, the suitcase's limits, small rules."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vit_hf"
SUITCASE = PACKAGE / "modeling"
# What each room may import from the others. Every room may know `version`.
ALLOWED = {
    "modeling": set(),
    "data": set(),
    "version": set(),
    "evaluation": {"modeling", "data"},
    "planning": {"modeling"},
    "training": {"modeling", "data", "evaluation", "planning"},
    "recipes": set(),
    "converters": {"modeling"},
    "inspection": {"modeling"},
    "hub": {"modeling", "converters"},
    "experiment": {
        "modeling",
        "data",
        "evaluation",
        "training",
        "recipes",
        "converters",
        "inspection",
        "hub",
        "planning",
    },
    "studies": {
        "modeling",
        "data",
        "evaluation",
        "training",
        "recipes",
        "converters",
        "planning",
        "experiment",
        "hub",
    },
    "deployment": {"modeling", "converters", "data"},
    "benchmark": {
        "modeling",
        "data",
        "evaluation",
        "training",
        "converters",
        "planning",
        "deployment",
    },
    "cli": {
        "experiment",
        "studies",
        "deployment",
        "benchmark",
        "modeling",
        "data",
        "evaluation",
        "training",
        "recipes",
    }
    | {"converters", "inspection", "hub", "planning"},
    "__init__": {"modeling"},
}
SUITCASE_IMPORTS = {"torch", "transformers", "huggingface_hub"} | set(sys.stdlib_module_names)
HEAVY = ("datasets", "timm", "matplotlib", "sklearn", "evaluate", "torchvision")
FILES = sorted(PACKAGE.rglob("*.py"))
SOURCES = FILES + sorted((ROOT / "scripts").glob("*.py")) + sorted((ROOT / "tests").rglob("*.py"))


def room_of(path: Path) -> str:
    """Returns the room of a file of the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path):
    """Yields the absolute dotted name of every module that a file imports, and its line."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
            yield from ((name, node.lineno) for name in (names if node.level else [module, *names]))


def rooms_imported(path: Path):
    """Yields the rooms that a file of the package imports from."""
    for name, line in imports_of(path):
        parts = name.split(".")
        if parts[0] == "vit_hf" and len(parts) > 1 and is_room(parts[1]):
            yield parts[1], line


def is_room(name: str) -> bool:
    """Whether the package has a room of that name."""
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def relative(path: Path) -> str:
    """Returns the path as it is seen from the root of the repository."""
    return str(path.relative_to(ROOT))


def test_every_room_is_in_the_table():
    assert {room_of(path) for path in FILES} <= set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_arrows(path):
    room = room_of(path)
    for other, line in rooms_imported(path):
        assert other in ALLOWED[room] | {room, "version"}, f"{relative(path)}:{line} {other}"


@pytest.mark.parametrize("path", sorted(SUITCASE.glob("*.py")), ids=relative)
def test_the_suitcase(path):
    assert path.parent == SUITCASE
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            # `from . import x` is not copied beside a checkpoint, other relative forms break there.
            assert node.level == 1 and node.module and "." not in node.module, node.lineno
            assert (SUITCASE / f"{node.module}.py").exists()
        elif isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] in SUITCASE_IMPORTS, node.lineno
        elif isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= SUITCASE_IMPORTS
    # transformers looks for imports with this expression, in docstrings too.
    found = re.findall(r"^\s*from\s+\.(\S+)\s+import", path.read_text(), flags=re.MULTILINE)
    statements = [
        node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert sorted(found) == sorted(statements)
    assert not re.search(r"^\s*import\s+\.", path.read_text(), flags=re.MULTILINE)


def test_the_suitcase_is_flat_and_knows_no_enum():
    assert not [path for path in SUITCASE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    for path in SUITCASE.glob("*.py"):
        assert not re.search(r"isinstance\([^)]*VisionTransformerConfig|\bEnum\b", path.read_text())


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_licence_line(path):
    assert path.read_text().splitlines()[:1] == ["# SPDX-License-Identifier: Apache-2.0"]


def test_no_file_without_a_concept():
    names = {"utils", "helpers", "misc", "common"}
    assert not [relative(path) for path in SOURCES if path.stem in names]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_assert_and_no_unguarded_torchvision(path):
    tree = ast.parse(path.read_text())
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    at_import = [name.split(".")[0] for node in tree.body for name in imported_names(node)]
    assert "torchvision" not in at_import


def imported_names(node) -> list[str]:
    """Returns the modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def test_import_is_light():
    code = (
        "import sys, transformers.models.auto.modeling_auto, transformers.modeling_utils\n"
        "from transformers import ViTImageProcessorPil\n"
        "before = set(sys.modules)  # what transformers itself imports is not ours to judge\n"
        "import vit_hf\n"
        f"print([name for name in {HEAVY!r} if name in set(sys.modules) - before])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"
