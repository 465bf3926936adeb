"""The arrows of csrc/README.md, read off the #include and import lines: any other arrow fails here.

Every rule is a function from {path: text} to complaints, so that each can be shown a planted violation.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
Sources = dict[str, str]

# -- C++ -------------------------------------------------------------------------------------------
ROOMS = {
    "base": {"base"},
    "codec": {"base", "codec"},
    "schedule": {"base", "schedule"},
    "transport": {"base", "transport"},
    "comm": {"base", "codec", "schedule", "transport", "cuda", "comm"},
    "cuda": {"base", "codec", "cuda"},
    "cusim": {"cusim"},
    "bindings": {"base", "codec", "schedule", "transport", "comm", "cuda", "bindings"},
}
# schedule knows no dtype or memory, transport moves bytes that mean nothing to it
UNKNOWN_TO = {
    "schedule": {"base/dtype.hpp", "base/view.hpp", "base/half.hpp"},
    "transport": {"base/dtype.hpp", "base/view.hpp", "base/half.hpp"},
}
# the one file that chooses between CUDA and the simulator
ALSO = {"csrc/cuda/device.cuh": {"cusim/cusim.hpp"}}
FOREIGN = re.compile(r"^(torch|ATen|c10|caffe2)/")
PYTHON = re.compile(r"^(pybind11/|Python\.h)")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
OUTPUT = re.compile(
    r"\bstd::(cout|cerr|clog|abort|terminate|exit|_Exit)\b|(?<![\w.>:])(printf|fprintf|vprintf|puts|fputs|perror)\s*\("
    r"|(?<![\w.>:])abort\s*\(\s*\)|(?<![\w.>:])_?exit\s*\("
)


def code_only(text: str) -> str:
    """C++ without comments and string literals: words in a message are not calls."""
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', " ", text, flags=re.DOTALL)


def includes(files: Sources) -> list[str]:
    wrong = []
    for path, text in files.items():
        room = path.split("/")[1]
        for quote, target in INCLUDE.findall(text):
            if quote == "<":
                if FOREIGN.match(target):
                    wrong.append(f"{path} includes <{target}>: nothing is compiled against torch")
                if PYTHON.match(target) and room != "bindings":
                    wrong.append(f"{path} includes <{target}>: only bindings knows Python")
                continue
            other = target.split("/")[0]
            if "/" not in target or other not in ROOMS:
                wrong.append(f'{path} includes "{target}": write the path from csrc, "room/file"')
            elif other not in ROOMS[room] and target not in ALSO.get(path, ()):
                wrong.append(f'{path} includes "{target}": no arrow from {room} to {other}')
            elif target in UNKNOWN_TO.get(room, ()):
                wrong.append(f'{path} includes "{target}": {room} knows no dtype and no array')
    return wrong


def environment(files: Sources) -> list[str]:
    return [
        f"{path} reads the environment; only csrc/base/config.cpp does"
        for path, text in files.items()
        if re.search(r"\b(secure_)?getenv\b|\benviron\b", code_only(text)) and path != "csrc/base/config.cpp"
    ]


def silence(files: Sources) -> list[str]:
    return [
        f"{path} says {match.group(0).strip()}: neither print nor end the process; log() or throw"
        for path, text in files.items()
        for match in OUTPUT.finditer(code_only(text))
    ]


# -- Python ----------------------------------------------------------------------------------------
# A module imports from lower levels only; inside a package (torch, bench) all may know all. __init__ stands
# below torch and testing because it re-exports the core, and loads those two only when somebody asks for them
# (what it imports for type checkers alone does not count).
LEVELS = {
    "_native": 0,
    "errors": 1,
    "arrays": 2,
    "config": 2,
    "stages": 2,
    "store": 2,
    "trace": 2,
    "codecs": 3,
    "tcp_store": 3,
    "work": 3,
    "fusion": 4,
    "trials": 4,
    "topology": 5,
    "launch": 4,
    "ops": 4,
    "rendezvous": 4,
    "feedback": 4,
    "powersgd": 5,
    "global_topk": 5,
    "spec": 2,
    "user_codec": 4,
    "collectives": 5,
    "policy": 6,
    "probe": 6,
    "prices": 7,
    "communicator": 8,
    "gpu_peers": 7,
    "virtual_ranks": 8,
    "peer_memory": 9,
    "__init__": 10,
    "testing": 11,
    "torch": 11,
    "bench": 12,
    "__main__": 13,
}


def module_of(path: str) -> str:
    """src/gradwire/torch/ddp.py -> torch; src/gradwire/ops.py -> ops."""
    return path.removeprefix("src/gradwire/").split("/")[0].removesuffix(".py").removesuffix(".pyi")


def imported(path: str, node: ast.AST) -> list[str]:
    """Absolute dotted names of what an import statement asks for."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = path.removeprefix("src/").split("/")[: -node.level]
        base = ".".join([*package, base]).rstrip(".")
    # `from gradwire import arrays` names a module, `from gradwire.arrays import view` does not
    return [f"gradwire.{alias.name}" for alias in node.names] if base == "gradwire" else [base]


def at_import_time(tree: ast.Module) -> list[ast.AST]:
    """The statements that run when the module is imported: not in a function, not for type checkers only."""
    found: list[ast.AST] = []
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        found.append(node)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            queue.extend(node.orelse)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            queue.extend(ast.iter_child_nodes(node))
    return found


def imports(files: Sources) -> list[str]:
    wrong = []
    for path, text in files.items():
        me = module_of(path)
        if me not in LEVELS:
            wrong.append(f"{path} has no level: give {me} one in LEVELS of tests/test_layering.py")
            continue
        tree = ast.parse(text)
        for node in at_import_time(tree) if me == "__init__" else ast.walk(tree):
            for name in imported(path, node):
                if name.split(".")[0] != "gradwire":
                    continue
                part = [*name.split("."), "__init__"][1]
                other = part if part in LEVELS else "__init__"  # `from gradwire import init`
                if other != me and LEVELS[other] >= LEVELS[me]:
                    wrong.append(f"{path}:{node.lineno} imports {name}: no arrow from {me} to {other}")
    return wrong


def torch_is_optional(files: Sources) -> list[str]:
    return [
        f"{path}:{node.lineno} imports torch when it is imported itself; only src/gradwire/torch may"
        for path, text in files.items()
        if module_of(path) != "torch"
        for node in at_import_time(ast.parse(text))
        if any(re.match(r"(gradwire\.)?torch\b", name) for name in imported(path, node))
    ]


def public_api_only(files: Sources) -> list[str]:
    """Examples and benchmarks are what a user could write."""
    wrong = []
    for path, text in files.items():
        for node in ast.walk(ast.parse(text)):
            for name in imported(path, node):
                names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
                private = [p for p in [*name.split("."), *names] if re.match("_[^_]", p)]
                if name.split(".")[0] == "gradwire" and private:
                    wrong.append(f"{path}:{node.lineno} imports {name}: {private[0]} is not public")
    return wrong


def short_files(files: Sources) -> list[str]:
    return [
        f"{path} has {lines} lines, the ceiling is 400: one idea a file"
        for path, text in files.items()
        if (lines := text.count("\n")) > 400
    ]


# -- the tests -------------------------------------------------------------------------------------
def read(folder: str, *suffixes: str) -> Sources:
    paths = sorted(p for p in (ROOT / folder).rglob("*") if p.suffix in suffixes)
    return {str(p.relative_to(ROOT)): p.read_text() for p in paths}


CPP = read("csrc", ".cpp", ".hpp", ".h", ".def", ".cu", ".cuh")
PACKAGE = read("src/gradwire", ".py")
SCRIPTS = {**read("examples", ".py"), **read("benchmarks", ".py")}
ALL = {**CPP, **PACKAGE, **read("src/gradwire", ".pyi")}

RULES: dict[str, tuple[Callable[[Sources], list[str]], Sources]] = {
    "rooms include only along the arrows": (includes, CPP),
    "one file reads the environment": (environment, CPP),
    "the library neither prints nor aborts": (silence, CPP),
    "modules import only along the arrows": (imports, PACKAGE),
    "torch is optional": (torch_is_optional, PACKAGE),
    "examples and benchmarks use the public API": (public_api_only, SCRIPTS),
    "no file over 400 lines": (short_files, ALL),
}

PLANTED = [
    (includes, "csrc/codec/x.cpp", '#include "transport/transport.hpp"'),
    (includes, "csrc/schedule/x.cpp", '#include "codec/codec.hpp"'),
    (includes, "csrc/transport/x.hpp", '#  include "comm/work.hpp"'),
    (includes, "csrc/base/x.hpp", '#include "codec/codec.hpp"'),
    (includes, "csrc/comm/x.cpp", '#include "bindings/view_py.hpp"'),
    (includes, "csrc/comm/x.cpp", '#include "work.hpp"'),
    (includes, "csrc/schedule/x.cpp", '#include "base/dtype.hpp"'),
    (includes, "csrc/bindings/x.cpp", "#include <torch/extension.h>"),
    (includes, "csrc/comm/x.cpp", "#include <pybind11/pybind11.h>"),
    (includes, "csrc/cuda/quant.cu", '#include "cusim/cusim.hpp"'),
    (includes, "csrc/cuda/x.cu", '#include "comm/work.hpp"'),
    (includes, "csrc/codec/x.hpp", '#include "cuda/rows.cuh"'),
    (environment, "csrc/transport/x.cpp", 'auto h = std::getenv("HOST");'),
    (silence, "csrc/comm/x.cpp", "std::cout << 1;"),
    (silence, "csrc/comm/x.cpp", 'printf("x");'),
    (silence, "csrc/comm/x.cpp", "if (bad) abort();"),
    (imports, "src/gradwire/errors.py", "from .communicator import Communicator"),
    (imports, "src/gradwire/communicator.py", "from gradwire.torch import attach"),
    (imports, "src/gradwire/arrays.py", "def f():\n    from gradwire import ops"),
    (imports, "src/gradwire/torch/ddp.py", "from ..bench import cli"),
    (imports, "src/gradwire/communicator.py", "from gradwire import init"),
    (imports, "src/gradwire/helpers.py", ""),
    (torch_is_optional, "src/gradwire/arrays.py", "try:\n    import torch\nexcept ImportError:\n    pass"),
    (torch_is_optional, "src/gradwire/__init__.py", "from .torch import attach"),
    (public_api_only, "examples/x.py", "from gradwire import _native"),
    (public_api_only, "benchmarks/x.py", "from gradwire.communicator import _hidden"),
    (short_files, "csrc/comm/x.cpp", "\n" * 401),
]

INNOCENT = [
    (includes, "csrc/comm/x.cpp", '#include "codec/codec.hpp"\n#include <vector>'),
    (environment, "csrc/comm/x.cpp", "// getenv is forbidden here"),
    (silence, "csrc/comm/x.cpp", 'std::snprintf(b, 2, "printf(1)"); comm.abort(why); log("std::cout");'),
    (imports, "src/gradwire/torch/ddp.py", "from ..communicator import Communicator\nfrom . import plan"),
    (imports, "src/gradwire/__init__.py", "if TYPE_CHECKING:\n    from gradwire import testing"),
    (torch_is_optional, "src/gradwire/arrays.py", "def f():\n    import torch"),
    (torch_is_optional, "src/gradwire/arrays.py", "if TYPE_CHECKING:\n    import torch"),
    (public_api_only, "examples/x.py", "from __future__ import annotations\nimport gradwire"),
]


@pytest.mark.parametrize("rule", RULES)
def test_the_tree_obeys(rule: str) -> None:
    check, files = RULES[rule]
    assert check(files) == []


@pytest.mark.parametrize(("check", "path", "text"), PLANTED)
def test_a_planted_violation_is_caught(check: Callable[[Sources], list[str]], path: str, text: str) -> None:
    assert len(check({path: text})) == 1


@pytest.mark.parametrize(("check", "path", "text"), INNOCENT)
def test_innocent_text_passes(check: Callable[[Sources], list[str]], path: str, text: str) -> None:
    assert check({path: text}) == []


def test_the_rules_see_the_tree() -> None:
    assert len(CPP) > 20 and len(PACKAGE) > 5, "the rules ran over nothing: were folders renamed?"
