"""The house keeps its shape: light start-up, public names, one name per verb everywhere, small files."""

import ast
import re
from pathlib import Path

import pytest
import typer

import finefold
from finefold.cli.main import app
from offline.processes import finish, start

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src" / "finefold").rglob("*.py"))
VERBS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
HEAVY = ("torch", "torchvision", "timm", "polars", "numpy", "pydantic", "cv2", "PIL", "matplotlib", "scipy", "openvino")

PROBE = """
import sys
{code}
loaded = sorted({{name.partition('.')[0] for name in sys.modules}} & {heavy})
print(','.join(loaded))
"""


def heavy_after(code: str, folder: Path) -> set[str]:
    """The heavy packages that a fresh process has loaded after `code`."""
    script = PROBE.format(code=code, heavy=set(HEAVY) | {"typer", "rich"})
    told = finish(start("-c", script, cwd=folder)).stdout.strip().splitlines()[-1:]
    return set("".join(told).split(",")) - {""}


def test_importing_finefold_loads_nothing(tmp_path):
    """`import finefold` loads neither torch nor any table, number or picture library, nor typer or rich."""
    assert heavy_after("import finefold", tmp_path) == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_loads_nothing_heavy(arguments, tmp_path):
    """`--help` answers without torch, polars, numpy or pydantic (which typer itself loads to read a verb's flags)."""
    code = (
        "import contextlib, io, finefold.cli.main as m\n"
        f"with contextlib.redirect_stdout(io.StringIO()):\n    assert m.main({arguments!r}) == 0"
    )
    own = {"pydantic"} if arguments[0] in VERBS else set()
    assert heavy_after(code, tmp_path) & set(HEAVY) - own == set()


def test_a_misspelt_recipe_answers_before_torch(tmp_path):
    """A recipe mistake is told before torch is loaded."""
    (tmp_path / "data.toml").write_text("")
    code = "import finefold.cli.main as m; assert m.main(['train', 'data.toml', '--recipe', 'prob', '--out', 'x']) == 2"
    assert "torch" not in heavy_after(code, tmp_path)


def test_data_and_scores_do_without_torch(tmp_path):
    """The rooms below nn, and what reads them, never load torch."""
    rooms = ("data", "recipe", "metrics", "auditing", "runs", "report")
    modules = [
        f"finefold.{path.parent.name}.{path.stem}"
        for path in SOURCES
        if path.parent.name in rooms and path.stem != "__init__"
    ]
    assert len(modules) > 20
    assert not heavy_after(f"import {', '.join(modules)}", tmp_path) & {"torch", "timm", "torchvision", "typer", "rich"}


def test_every_public_name_resolves():
    """Each name in `finefold.__all__` is there, sorted, listed by dir(), and says what it is."""
    assert finefold.__all__ == sorted(finefold.__all__)
    for name in finefold.__all__:
        assert (getattr(finefold, name).__doc__ or "").strip(), name
    assert set(dir(finefold)) == {*finefold.__all__, "__version__"}
    with pytest.raises(AttributeError, match="module 'finefold' has no attribute 'trian'"):
        _ = finefold.trian


def test_types_and_lazy_names_agree():
    """What type checkers see of the package is what it gives at run time."""
    text = (ROOT / "src" / "finefold" / "__init__.py").read_text()
    block = text[text.index("if TYPE_CHECKING:") : text.index("__version__")]
    imported = {name.strip() for line in re.findall(r" import (.+)", block) for name in line.split(",")}
    assert imported == set(finefold.__all__)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_one_name_everywhere(verb):
    """A verb of the command line is a module of steps, a page of the reference and a file of tests."""
    module = verb.replace("-", "_")
    assert (ROOT / "src" / "finefold" / "steps" / f"{module}.py").is_file()
    assert (ROOT / "docs" / "reference" / f"{verb}.md").is_file()
    assert (ROOT / "tests" / "cli" / f"test_{module}.py").is_file()


def test_no_file_outgrows_400_lines():
    """Every source file can be read at one sitting."""
    assert {path.name: n for path in SOURCES if (n := len(path.read_text().splitlines())) > 400} == {}


def test_no_room_is_a_drawer():
    """No module is called utils, common, helpers, base, core or manager."""
    names = {part for path in SOURCES for part in (path.stem, path.parent.name)}
    assert not names & {"utils", "common", "helpers", "base", "core", "manager"}


def test_every_test_says_its_law():
    """Every test function has a docstring."""
    wordless = [
        f"{path.name}: {node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert wordless == []
