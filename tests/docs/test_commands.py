"""What the pages tell users to type and to follow is there: commands, keys, files, names and links.

Commands are parsed by the tools' own parsers and by torchrun's, and their configurations are merged and
checked; nothing is trained.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import importlib
import importlib.util
import io
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser
from yacs.config import CfgNode

from labelenc.config import ConfigError, load_config, resolve_dataset
from labelenc.config.defaults import default_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "INSTALL.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "datasets/README.md", ROOT / "benchmarks/README.md"]
TOOLS = sorted((ROOT / "tools").glob("*.py"))
TOOL = re.compile(r"^tools/\w+\.py$")
# A detector for lines that name none, such as test_net.py with a checkpoint that carries its own.
ANY_CONFIG = ROOT / "configs/retinanet/retinanet_R-50-FPN_1x.yaml"
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Command:
    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def blocks(text: str, language: str) -> list[str]:
    return [body for found, body in BLOCK.findall(text) if found == language]


def lines_of(shell: str) -> Iterator[list[str]]:
    """The words of each command that names a tool or copies; ``|``, ``;`` and ``&&`` separate commands."""
    for line in shell.replace("\\\n", " ").splitlines():
        if "tools/" not in line and not line.startswith("cp "):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if set(word) <= set("|&;<>"):
                yield words
                words = []
            else:
                # Whatever a variable holds, here it is a number, which serves as a name too.
                words.append(re.sub(r"\$\{?\w+\}?|\$\([^)]*\)", "1", word))
        yield words


def tool_commands(page: str, shell: str) -> list[Command]:
    found = (words for words in lines_of(shell) if any(TOOL.match(word) for word in words))
    return [Command(page, tuple(words)) for words in found]


def documented_commands() -> list[Command]:
    return [
        command
        for page in PAGES
        for body in blocks(page.read_text(encoding="utf-8"), "bash")
        for command in tool_commands(str(page.relative_to(ROOT)), body)
    ]


def copied_configs() -> dict[str, str]:
    """Copy -> original, for the configs that the pages tell to copy (``cp``) before they are used.

    ``my_config.yaml`` is anybody's own.
    """
    text = "".join(body for page in PAGES for body in blocks(page.read_text(encoding="utf-8"), "bash"))
    copies = (words for words in lines_of(text) if words[:1] == ["cp"] and words[-1].endswith(".yaml"))
    return {"my_config.yaml": "configs/own_data/own_data.yaml"} | {words[-1]: words[-2] for words in copies}


@functools.cache
def parser_of(tool: str) -> argparse.ArgumentParser:
    path = ROOT / tool
    assert path.is_file(), f"there is no {tool}"
    spec = importlib.util.spec_from_file_location(f"tool_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert hasattr(module, "parser"), f"{tool} has no function parser() that returns its ArgumentParser"
    return module.parser()


def parsed(command: Command) -> argparse.Namespace | None:
    """What launcher and tool make of the words; None for ``--help``. AssertionError if one refuses them."""
    place = next(i for i, word in enumerate(command.words) if TOOL.match(word))
    tool, said = command.words[place], io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            check_launcher(list(command.words[:place]), tool)
            return parser_of(tool).parse_args(command.words[place + 1 :])
    except SystemExit as stop:
        if stop.code:
            raise AssertionError(f"{command}\n{said.getvalue()}") from stop
        return None


def check(command: Command, copies: dict[str, str]) -> None:
    """AssertionError unless the command's launcher, tool and configuration take its words."""
    args = parsed(command)
    opts = getattr(args, "opts", None) or getattr(args, "set", None) or []
    late = [word for word in opts if word.startswith("--")]
    assert not late, f"{command}: {late[0]} stands behind the KEY VALUE pairs"
    if hasattr(args, "config_file"):
        given = args.config_file or str(ANY_CONFIG)
        try:
            cfg = load_config(ROOT / copies.get(given, given), opts)
            for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
                resolve_dataset(cfg, name)
        except ConfigError as error:
            raise AssertionError(f"{command}\n{error}") from error


def check_launcher(words: list[str], tool: str) -> None:
    """Words before the tool: assignments, srun with its options, then python or a launcher."""
    while words and ("=" in words[0] or words[0] == "srun" or words[0].startswith("-")):
        words = words[1:]
    if words == ["python"]:
        return
    launcher = ["torchrun"] if words[:1] == ["torchrun"] else ["python", "-m", "torch.distributed.launch"]
    assert words[: len(launcher)] == launcher, f"{words} starts no tool"
    # torch.distributed.launch takes the words of torchrun.
    get_args_parser().parse_args([*words[len(launcher) :], tool])


@pytest.mark.parametrize("command", documented_commands(), ids=str)
def test_command_is_taken_by_its_tool(command):
    check(command, copied_configs())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("python tools/train_net.py --config-file configs/demo/shapes_R-18_small.yaml --resume", "--resume"),
        ("python tools/train_net.py OUTPUT_DIR x", "--config-file"),
        ("python tools/train_net.py --config-file configs/none.yaml", "none.yaml"),
        ("python tools/demo.py --outputdir x", "outputdir"),
        ("python tools/none.py --help", "there is no tools/none.py"),
        ("torchrun --nproc_pre_node=8 tools/demo.py", "nproc_pre_node"),
        ("bash tools/demo.py", "starts no tool"),
        (
            "python tools/test_net.py --config-file configs/demo/shapes_R-18_small.yaml SOLVER.BASELR 1",
            "BASE_LR",
        ),
        (
            "python tools/test_net.py --config-file configs/demo/shapes_R-18_small.yaml SOLVER.BASE_LR x",
            "float",
        ),
        (
            "python tools/test_net.py --config-file configs/demo/shapes_R-18_small.yaml SEED 1 --skip-test 1",
            "behind",
        ),
    ],
)
def test_a_wrong_command_is_found(words, told):
    (command,) = tool_commands("page", f"set -e; {words}  # a comment\n")
    with pytest.raises(AssertionError, match=re.escape(told)):
        check(command, {})


def test_lines_are_read_as_a_shell_reads_them():
    text = 'A=1 python tools/a.py \\\n  --x "1 2" K "(\'a\',)" && torchrun --n=$N tools/b.py | tee log  # c\n'
    first, second = tool_commands("page", text)
    assert first.words == ("A=1", "python", "tools/a.py", "--x", "1 2", "K", "('a',)")
    assert second.words == ("torchrun", "--n=1", "tools/b.py")


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.name)
def test_help_ends_with_an_example_that_works(tool):
    epilog = parser_of(f"tools/{tool.name}").epilog or ""
    examples = tool_commands(f"{tool.name} --help", epilog)
    assert examples, "no line of the epilog starts a tool"
    for command in examples:
        check(command, copied_configs())
    assert f"tools/{tool.name}" in examples[-1].words


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.name)
def test_a_wrong_argument_is_answered_with_one_line(tool, capsys):
    with pytest.raises(SystemExit) as caught:
        parser_of(f"tools/{tool.name}").parse_args(["--nonsense", "1"])
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.endswith("--help\n")
    assert len(text.splitlines()) == 1


def test_every_tool_is_documented():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert not [tool.name for tool in TOOLS if f"tools/{tool.name}" not in text]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_mentioned_files_exist(page):
    """Tools and configs are named in running text, too."""
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/])(?:tools/\w+\.py|configs/[\w/.-]+\.yaml)", text)) - set(
        copied_configs()
    )
    assert not sorted(name for name in named if not (ROOT / name).is_file())


def known_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    """The dotted names of all keys and of all groups of keys."""
    for name, value in node.items():
        yield prefix + name
        if isinstance(value, CfgNode):
            yield from known_keys(value, f"{prefix}{name}.")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_mentioned_keys_exist(page):
    known = set(known_keys(default_config()))
    groups = "|".join(sorted({key.split(".")[0] for key in known if "." in key}))
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(rf"\b(?:{groups})(?:\.[A-Z][A-Z0-9_]*)+\b", text)) - {"SOLVER.BASELR"}
    assert len(known) > 100
    assert not sorted(named - known)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_blocks_are_well_formed(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    assert text.count("```") % 2 == 0
    for body in blocks(text, "bash"):
        done = subprocess.run(["bash", "-n"], input=body, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + body
    for body in blocks(text, "yaml"):
        tree = yaml.safe_load(body)
        if "_BASE_" not in tree:
            body = f'_BASE_: "{ANY_CONFIG}"\n{body}'
        (tmp_path / "block.yaml").write_text(body)
        load_config(tmp_path / "block.yaml")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_python_blocks_use_names_that_exist(page):
    for body in blocks(page.read_text(encoding="utf-8"), "python"):
        tree = ast.parse(body)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{node.module} has no {missing}"
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "labelenc":
                assert hasattr(importlib.import_module("labelenc"), node.attr), ast.unparse(node)


def anchors(page: Path) -> set[str]:
    """The names that a page's headings have as link targets, as GitHub makes them."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


@pytest.mark.parametrize("page", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert not dead


def test_the_index_names_every_page():
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    pages = [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md"]
    assert not [name for name in pages if f"({name})" not in index and f"({name}#" not in index]
