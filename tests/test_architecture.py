"""One direction: who may import whom, and what a bare import may cost."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import cnnlab
from cnnlab.cli.commands import COMMANDS

ROOT = Path(cnnlab.__file__).parent
FLOORS = {
    "__main__": 11,
    "cli": 10,
    "study": 9,
    "deploy": 9,
    "processes": 9,
    "folds": 9,
    "labs": 9,
    "look": 8.5,  # of floor 9, and under deploy there: the demonstration serves its page
    "experiment": 8,
    "fitting": 8.5,
    "report": 7,
    "evaluation": 6,
    "training": 5,
    "explain": 5,
    "runs": 4,
    "tasks": 3,
    "data": 2,
    "models": 2,
    "tracking": 2,
    "config": 1,
    "geometry": 1,
    "deterministic": 1,
    "device": 1,
    "remote": 1,
    "figure": 1,
    "datasets": 3,
    "imports": 0.5,  # config knows the form of a name by it
    "representation": 0,
    "files": 0.5,  # figure writes through it, and it says what is wrong with a path
    "finite": 1,
    "torch_patches": 0,
    "host_device": 0,
    "proportions": 0,
    "values": 0,
    "signals": 0,
    "streams": 0,
    "errors": 0,  # of floor 1, and under the two others there: config and geometry say what is wrong with its words
}
DOOR = "cnnlab"  # __init__: the lazy door to everything; inside, only its version may be taken from it


def name_of(file: Path) -> str:
    parts = ["cnnlab", *file.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in sorted(ROOT.rglob("*.py"))}


def is_type_checking(node: ast.If) -> bool:
    return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imported(module: str, source: str, *, typing_too: bool, inner_too: bool) -> set[str]:
    """Modules of cnnlab that `source` imports, at its top and, if asked, inside functions or for annotations only."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and is_type_checking(node) and not typing_too:
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not inner_too:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module if MODULES.get(module, Path()).name == "__init__.py" else module.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            base = f"{package}.{node.module}".rstrip(".") if node.level else node.module or ""
            names = [alias.name for alias in node.names if (base, alias.name) != (DOOR, "__version__")]
            found.update(f"{base}.{name}" if f"{base}.{name}" in MODULES else base for name in names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return {name for name in found if name.split(".")[0] == "cnnlab" and name != module}


def room(module: str) -> str:
    return module.split(".")[1]


def violations(module: str, source: str) -> list[str]:
    found = []
    for target in sorted(imported(module, source, typing_too=True, inner_too=True)):
        if target == DOOR:
            found.append(f"{module} imports cnnlab itself")
        elif room(target) != room(module) and FLOORS[room(target)] >= FLOORS[room(module)]:
            found.append(f"{module} (floor {FLOORS[room(module)]}) imports {target} (floor {FLOORS[room(target)]})")
    return found


def find_circle(graph: dict[str, set[str]]) -> list[str] | None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


# ---- the checks themselves can fail


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cnnlab.data.load", "from cnnlab.training import trainer"),
        ("cnnlab.data.load", "from cnnlab.models.resnet import ResNet"),  # the same floor, another room
        ("cnnlab.data.load", "import cnnlab.runs.folder"),
        ("cnnlab.runs.folder", "def f():\n    from cnnlab.evaluation.evaluate import evaluate"),
        ("cnnlab.errors", "from .config import Config"),
        ("cnnlab.data.load", "from ..training.trainer import Trainer"),
        ("cnnlab.training.trainer", "import cnnlab"),
        ("cnnlab.training.trainer", "from cnnlab import load_data"),
        ("cnnlab.models.base", "if TYPE_CHECKING:\n    from cnnlab.experiment import Run"),
    ],
)
def test_an_arrow_that_runs_up_is_seen(module: str, source: str) -> None:
    assert violations(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cnnlab.training.trainer", "from cnnlab.data.load import Data\nimport cnnlab.runs.folder, torch"),
        ("cnnlab.data.load", "from cnnlab.data.store import Index\nfrom .split import Split"),
        ("cnnlab.cli", "from cnnlab import __version__, config"),
    ],
)
def test_an_arrow_that_runs_down_is_allowed(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_a_circle_is_seen() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) is not None
    assert find_circle({"a": {"b", "c"}, "b": {"c"}}) is None


# ---- the package


def test_every_module_stands_on_a_floor() -> None:
    assert len(MODULES) > 40
    assert {room(module) for module in MODULES if module != DOOR} <= set(FLOORS)


@pytest.mark.parametrize("module", [module for module in MODULES if module != DOOR])
def test_a_module_imports_only_from_below_or_its_own_room(module: str) -> None:
    assert violations(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("inner_too", [False, True], ids=["at import", "with imports inside functions"])
def test_no_modules_import_each_other_in_a_circle(inner_too: bool) -> None:
    graph = {
        module: imported(module, file.read_text(encoding="utf-8"), typing_too=False, inner_too=inner_too)
        for module, file in MODULES.items()
        if module != DOOR
    }
    assert find_circle(graph) is None


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith(("cnnlab.config", "cnnlab.cli"))])
def test_only_config_and_cli_know_hydra(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in names if name.split(".")[0] in ("hydra", "omegaconf")}


# ---- no hidden travel: reading or writing a run asks nothing of the network

REMOTE = {  # what travels, and the modules that may know it
    "cnnlab.remote": {"cnnlab.data.remote", "cnnlab.deploy.opened", "cnnlab.runs.download", "cnnlab.runs.upload"},
    "cnnlab.runs.download": {"cnnlab.deploy.opened", "cnnlab.runs.opened"},
    "cnnlab.runs.artifact": {"cnnlab.runs.opened"},
    "cnnlab.runs.upload": {"cnnlab.experiment", "cnnlab.runs.opened"},
}
OPENS = {  # commands, and public functions by module, that open an address at their top
    "cnnlab.deploy.export": {"export_run"},
    "cnnlab.deploy.predictor": {"Predictor.from_export", "Predictor.from_run"},
    "cnnlab.deploy.segmenter": {"segment_images"},
    "cnnlab.evaluation.evaluate": {"evaluate"},
    "cnnlab.experiment": {"Session._begin", "Session.told", "_resume", "resume_experiment", "run_experiment"},
    "cnnlab.explain.images": {"explain_images", "localize_images"},
    "cnnlab.fitting": {"fit"},
    "cnnlab.look.page": {"write_look"},
    "cnnlab.processes": {"resume_together", "train_together"},
    "cnnlab.runs.weights": {"load_run"},
    "cnnlab.study.rate_range": {"find_learning_rate"},
    **{f"cnnlab.cli.{name}": {"run", "_resume"} for name in COMMANDS},
}
DOORS = {"begin_run", "has_begun", "opened_export", "opened_run", "opened_source", "publish", "uploading"}


def openers(source: str) -> set[str]:
    """Functions, as Class.name in a class, that call what may travel."""
    found: set[str] = set()

    def visit(node: ast.AST, name: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = f"{name}.{node.name}".lstrip(".")
        if isinstance(node, ast.Name) and node.id in DOORS:
            found.add(name)
        for child in ast.iter_child_nodes(node):
            visit(child, name)

    visit(ast.parse(source), "")
    return found


def test_an_opener_is_seen() -> None:
    source = (
        "from a import opened_run\nclass A:\n    def f(self):\n        with opened_run(0): pass\ndef g(): begin_run(0)"
    )
    assert openers(source) == {"A.f", "g"}


def test_only_the_doors_import_what_travels() -> None:
    importing: dict[str, set[str]] = {name: set() for name in REMOTE}
    for module, file in MODULES.items():
        for name in imported(module, file.read_text(encoding="utf-8"), typing_too=True, inner_too=True) & set(REMOTE):
            importing[name].add(module)
    assert importing == REMOTE


def test_only_commands_and_public_functions_open_an_address() -> None:
    opening = {
        module: openers(file.read_text(encoding="utf-8"))
        for module, file in MODULES.items()
        if not module.endswith((".opened", ".upload"))
    }
    assert {module: names for module, names in opening.items() if not names <= OPENS.get(module, set())} == {}


def test_every_module_of_a_command_is_listed_and_named_as_its_command() -> None:
    shared = {"__main__", "arguments", "cloud", "commands", "printing", "program"}
    modules = {name.removeprefix("cnnlab.cli.") for name in MODULES if name.startswith("cnnlab.cli.")} - shared
    assert {name: f"cnnlab.cli.{name}" for name in modules} == {
        name: getattr(command, "__name__", "") for name, command in COMMANDS.items()
    }


def test_every_name_of_the_package_is_there() -> None:
    assert set(cnnlab.__all__) <= set(dir(cnnlab))
    for name in cnnlab.__all__:
        assert getattr(cnnlab, name) is not None
    with pytest.raises(AttributeError, match="resnet"):
        cnnlab.resnet  # noqa: B018


# ---- start-up

HEAVY = ("torch", "torchvision", "numpy", "PIL", "matplotlib", "hydra", "omegaconf", "sklearn", "rich", "tensorboard")


@pytest.mark.parametrize(
    "statement",
    [
        "import cnnlab",
        "import cnnlab.cli",
        "import cnnlab.geometry, cnnlab.errors, cnnlab.config",
        "import cnnlab; cnnlab.geometry.conv_output_size(32, 3)",
        "from cnnlab.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from cnnlab.cli import main; main(['--version'])",
        "from cnnlab.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint('\\nloaded', *[name for name in {HEAVY} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1].strip() == "loaded"


@pytest.mark.parametrize("words", [["-c", "import cnnlab"], ["-m", "cnnlab.cli", "--help"]])
def test_the_start_takes_less_than_three_tenths_of_a_second(words: list[str]) -> None:
    """Of the processor's time, which other work on the machine does not lengthen."""
    times = []
    for _ in range(5):
        started = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
        assert started.returncode == 0
        times.append(used.ru_utime + used.ru_stime)
    assert min(times) < 0.3


def test_what_the_page_names_is_there() -> None:
    """The files of "Where is …?", and every other file that docs/architecture.md names."""
    page = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("## Where is …?")[1].split("\n## ")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) == 13
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", page)
    assert len(named) > 60
    missing = {name for name in named if not any(str(file).endswith(f"/{name}") for file in MODULES.values())}
    assert missing - {"mine.py"} == {name for name in missing if (Path(__file__).parents[1] / name).exists()}
