"""The layers of the package: who may import whom, and how long a file may be; read from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "labelenc"

ALLOWED: dict[str, set[str]] = {
    "config": set(),
    "ops": set(),
    "structures": {"ops"},
    "data": {"structures", "ops", "config"},
    "modeling": {"structures", "ops", "config"},
    "supervision": {"modeling", "structures", "ops", "config"},
    "evaluation": {"structures", "ops"},
    "visualization": {"structures", "ops"},
    "engine": {"structures", "ops", "config"},
    "reports": {"config", "data", "engine", "evaluation", "structures", "visualization"},
    "dataset_tools": {"data", "reports", "visualization", "engine", "structures", "ops", "config"},
    "study": {"config", "data"},
}
# The only files of these layers that see a configuration; the others get plain values.
CONFIG_READERS = {
    "data": {"build.py"},
    "modeling": {"build.py"},
    "supervision": {"build.py", "step1.py", "step2.py"},
}
# Above all layers; the demo is the content of a tool that is too long for a script.
TOP = ("pipeline", "testing", "description", "prediction", "method_pictures", "export", "demo", "errors")
OPEN_TO_TOOLS = (
    "config",
    "dataset_tools",
    "demo",
    "errors",
    "export",
    "pipeline",
    "prediction",
    "reports",
    "study",
)
TOOLS_MAY_IMPORT = {f"labelenc.{name}" for name in OPEN_TO_TOOLS}


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Absolute names of our modules, and of names imported from them, that a file imports."""
    name = module_name(path).split(".")
    package = name if path.name == "__init__.py" else name[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            found = [".".join([*base, alias.name]) for alias in node.names]
        else:
            continue
        yield from (n for n in found if n.split(".")[0] == "labelenc")


def imports_of(path: Path) -> set[str]:
    return set(imported(path, ast.walk(ast.parse(path.read_text(encoding="utf-8")))))


def layer_of(name: str) -> str:
    """Second part of ``labelenc.<layer>...``; "" for what labelenc/__init__.py itself defines."""
    parts = name.split(".")
    if len(parts) == 1 or not ((PACKAGE / parts[1]).is_dir() or (PACKAGE / f"{parts[1]}.py").is_file()):
        return ""
    return parts[1]


def test_layers_import_downwards_only() -> None:
    wrong = []
    for path in sources(PACKAGE):
        layer = layer_of(module_name(path))
        if layer in ("", *TOP):
            continue
        assert layer in ALLOWED, f"{path.relative_to(ROOT)}: no such layer in the design"
        for name in imports_of(path):
            target = layer_of(name)
            if target not in ("", layer) and target not in ALLOWED[layer]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_only_builders_read_the_configuration() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for layer, readers in CONFIG_READERS.items()
        for path in sources(PACKAGE / layer)
        if path.name not in readers
        for name in imports_of(path)
        if layer_of(name) == "config"
    ]
    assert not wrong, "\n".join(wrong)


def test_the_layer_table_has_no_cycle() -> None:
    ready: set[str] = set()
    while len(ready) < len(ALLOWED):
        further = {layer for layer, below in ALLOWED.items() if below <= ready} - ready
        assert further, f"these layers need each other: {sorted(set(ALLOWED) - ready)}"
        ready |= further


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    modules = {module_name(path): path for path in sources(PACKAGE)}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        body = iter(ast.parse(path.read_text(encoding="utf-8")).body)
        targets = {n if n in modules else n.rpartition(".")[0] for n in imported(path, body)}
        graph[name] = {t for t in targets if t in modules and not name.startswith(f"{t}.")} - {name}
    while graph:
        leaves = {name for name, targets in graph.items() if not targets & graph.keys()}
        assert leaves, f"import cycle among {sorted(graph)}"
        graph = {name: targets for name, targets in graph.items() if name not in leaves}


def test_tools_go_through_the_pipeline() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(ROOT / "tools")
        for name in imports_of(path)
        if not any(name == allowed or name.startswith(f"{allowed}.") for allowed in TOOLS_MAY_IMPORT)
    ]
    assert not wrong, "\n".join(wrong)


def test_files_can_be_read_in_one_sitting() -> None:
    limits = dict.fromkeys(sources(PACKAGE), 300)
    limits |= dict.fromkeys(sources(ROOT / "tools"), 60)
    limits[PACKAGE / "pipeline.py"] = 250
    # A table of keys, looked up rather than read.
    del limits[PACKAGE / "config/defaults.py"]
    wrong = []
    for path, limit in limits.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > limit:
            wrong.append(f"{path.relative_to(ROOT)}: {lines} lines, at most {limit}")
    assert not wrong, "\n".join(wrong)
