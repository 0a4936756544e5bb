"""Which file may import what, and that importing keras_ban brings in nothing that Keras has not."""

import ast
import importlib
import pathlib
import re
import sys

import keras
import pytest
from helpers import processes

import keras_ban
from keras_ban._src import backend
from keras_ban._src.backend import common

pytestmark = pytest.mark.one_backend

PACKAGE = pathlib.Path(keras_ban.__file__).parent
FRAMEWORKS = {"tensorflow", "jax", "torch"}
# The files that import a framework as soon as they are imported. `torch_workers` is imported by torch's workers alone,
# while they train; `backend/__init__` imports the file of Keras's backend alone.
OF_ONE_FRAMEWORK = {"_src/distillation/torch_workers": "torch", "_src/data/torch_pipeline": "torch"}
OF_ONE_FRAMEWORK |= {"_src/data/tf_pipeline": "tensorflow", "_src/backend/jax_values": "jax"}
OF_ONE_FRAMEWORK |= {f"_src/backend/{framework}": framework for framework in FRAMEWORKS}
# From the lowest floor to the highest. A package imports from those below it; packages in one line know nothing of each
# other. `checks` and `hints` are files.
FLOORS = [
    {"checks", "hints"},
    {"backend"},
    {"files"},
    {"data"},
    {"losses"},
    {"targets"},
    {"distillation", "history"},
    {"runs"},
    {"ensemble"},
    {"scoring"},
    {"sequence"},
    {"export", "images"},
    {"command"},
]


def outside_functions(node):
    """What Python runs as soon as it imports a file."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef):
            yield child
            yield from outside_functions(child)


def imported(path, nodes=ast.walk):
    """Every module that a file imports, anywhere in it; of `from keras_ban._src import x`, `keras_ban._src.x`."""
    names = set()
    for node in nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= parts if node.module == "keras_ban._src" else {node.module}
    return names


# By their paths, without endings.
FILES = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def package_of(module):
    """The package of `keras_ban._src` that a module, or a file's path, is in; `None` outside."""
    parts = module.replace("/", ".").removeprefix("keras_ban.").split(".")
    return parts[1] if parts[0] == "_src" and len(parts) > 1 else None


def test_each_package_imports_from_the_floors_below_it_alone():
    floor = {package: level for level, packages in enumerate(FLOORS) for package in packages}
    inside = {name: path for name, path in FILES.items() if name.startswith("_src/") and name != "_src/__init__"}
    assert set(floor) == {package_of(name) for name in inside}
    for name, path in inside.items():
        for module in imported(path):
            if module == "keras_ban" or not module.startswith("keras_ban."):
                continue
            own, other = package_of(name), package_of(module)
            assert other is not None, f"{name}.py imports {module} from outside `_src`"
            assert own == other or floor[other] < floor[own], f"{name}.py imports {module}, which is not below it"


def test_the_documentation_lists_the_packages_in_their_order():
    page = (PACKAGE.parent / "docs" / "contributing.md").read_text()
    rows = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in page.splitlines() if row.startswith("| `")]
    listed = [name for row in rows for name in row]
    floor = {package: level for level, packages in enumerate(FLOORS) for package in packages}

    assert sorted(listed) == sorted(floor)
    assert [floor[name] for name in listed] == sorted(floor.values())


def test_no_file_uses_keras_internals_and_few_alone_know_the_frameworks():
    # `run_artefact` is a script for a process that knows neither keras_ban nor a backend: nothing imports it.
    knowing = {"_src/export/run_artefact", "_src/export/formats"}
    for name, path in FILES.items():
        modules = imported(path)
        internals = {module for module in modules if module.startswith("keras.src")}
        frameworks = {module.split(".")[0] for module in modules} & FRAMEWORKS
        assert not internals, f"{name}.py imports {internals}"
        allowed = FRAMEWORKS if name in knowing else {OF_ONE_FRAMEWORK.get(name)}
        assert frameworks <= allowed, f"{name}.py imports {frameworks}"


def test_what_is_neither_keras_nor_numpy_is_imported_when_it_is_used():
    expected = {"keras", "keras_ban", "numpy", *sys.stdlib_module_names}
    for name, path in FILES.items():
        modules = {module.split(".")[0] for module in imported(path, outside_functions)}
        early = modules - expected - {OF_ONE_FRAMEWORK.get(name)}
        assert not early, f"{name}.py imports {early} as soon as it is imported"


def without_docstring(node):
    """How many lines a function has, its docstring apart."""
    lines = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node) is None:
        return lines
    return lines - (node.body[0].end_lineno - node.body[0].lineno + 1)


def test_files_and_functions_are_short():
    for name, path in FILES.items():
        text = path.read_text()
        assert len(text.splitlines()) <= 400, name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert without_docstring(node) <= 60, f"{name}.py: {node.name}"


# Keras has no public names for these. A comment beside each says what it is used for.
PRIVATE_OF_KERAS = {
    "_flatten_layers",
    "_functional",
    "_initial_epoch",
    "_learning_rate",
    "_metrics",
    "_nodes_by_depth",
    "_path",
    "_value",
}


def test_no_object_reaches_into_private_attributes_of_others():
    for name, path in FILES.items():
        tree = ast.parse(path.read_text())
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        own = {method.name for each in classes for method in each.body if isinstance(method, ast.FunctionDef)}
        private = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr)]
        on_self = [node for node in private if ast.unparse(node.value) in ("self", "cls", "super()")]
        # A class method sets up an object of its own class.
        own |= {node.attr for node in on_self} | PRIVATE_OF_KERAS
        for node in private:
            assert node in on_self or node.attr in own, f"{name}.py, line {node.lineno}: {ast.unparse(node)}"


def test_no_package_imports_a_private_name():
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("keras_ban"):
                private = [alias.name for alias in node.names if alias.name.startswith("_") and alias.name != "_src"]
                assert not private, f"{name}.py imports {private}"


def test_each_import_within_a_function_has_a_reason_beside_it():
    for name, path in FILES.items():
        text = path.read_text()
        lines = text.splitlines()
        functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
        within = {
            node.lineno
            for each in functions
            for node in ast.walk(each)
            if isinstance(node, (ast.Import, ast.ImportFrom))
        }
        for number in within:
            first = number
            while first - 1 in within:
                first -= 1
            has_reason = lines[first - 2].strip().startswith("#") or "#" in lines[number - 1]
            assert has_reason, f"{name}.py, line {number}"


def public_signatures(body, prefix=""):
    """The public functions, classes and methods of a file, and their arguments."""
    found = {}
    for node in body:
        if isinstance(node, ast.FunctionDef) and (node.name == "__init__" or not node.name.startswith("_")):
            found[prefix + node.name] = ast.unparse(node.args)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found[prefix + node.name] = "class"
            found |= public_signatures(node.body, f"{prefix}{node.name}.")
    return found


def test_a_backend_defines_what_all_backends_define_or_a_common_function_again():
    files = ("common", "tensorflow", "jax", "jax_values", "torch")
    parsed = {name: ast.parse((PACKAGE / f"_src/backend/{name}.py").read_text()) for name in files}
    found = {name: public_signatures(each.body).items() for name, each in parsed.items()}
    everywhere = found["tensorflow"] & found["jax"] & found["torch"]

    for name in files:
        assert found[name] <= everywhere | found["common"], name


def test_the_backend_is_chosen_once():
    chosen = importlib.import_module(f"keras_ban._src.backend.{keras.config.backend()}")
    functions = vars(common) | vars(chosen)
    own = {name: each for name, each in functions.items() if getattr(each, "__module__", "").startswith("keras_ban.")}

    assert own
    assert all(getattr(backend, name) is each for name, each in own.items() if not name.startswith("_"))
    # The others write the name down, or choose it before Keras does.
    knowing = {"_src/backend/__init__", "_src/sequence/manifest", "_src/export/formats"}
    knowing.add("_src/command/command_line")
    for name, path in FILES.items():
        if name not in knowing:
            assert not re.search(r"\bBACKEND\b|config\.backend", path.read_text()), f"{name}.py asks which backend runs"


# Keras is imported already. The frameworks of other backends are forgotten, so that importing them again is noticed.
IMPORT_KERAS_BAN = f"""
import sys
import keras
others = {FRAMEWORKS} - {{keras.config.backend()}}
for name in list(sys.modules):
    if name.split(".")[0] in others:
        del sys.modules[name]
class Refusing:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in others:
            raise ImportError(name + " is imported")
sys.meta_path.insert(0, Refusing)
before = {{name.split(".")[0] for name in sys.modules}}
import keras_ban
after = {{name.split(".")[0] for name in sys.modules}}
print(sorted((after - before) - set(sys.stdlib_module_names)))
"""


@pytest.mark.new_process
def test_importing_keras_ban_imports_neither_a_framework_nor_anything_that_keras_has_not():
    result = processes.run(exec, IMPORT_KERAS_BAN, {})

    assert 0 == result.returncode, result.stderr
    assert "['keras_ban']" == result.stdout.strip()


def test_public_names_are_those_that_are_documented():
    assert set(keras_ban.__all__) == {
        "BornAgainHistory",
        "BornAgainSequence",
        "ControlRecord",
        "Controls",
        "Distiller",
        "EnsembleModel",
        "FeatureMatching",
        "GenerationRecord",
        "GradientDecomposition",
        "OverTraining",
        "SoftTargets",
        "export",
        "gradient_decomposition",
        "losses",
        "reborn",
        "share_layers",
    }
    assert all(getattr(keras_ban, name).__doc__ for name in keras_ban.__all__)
