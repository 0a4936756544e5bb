"""Which file may import what, and that importing keras_ban brings in nothing that Keras has not."""

import ast
import pathlib
import sys

import pytest
from helpers import processes

import keras_ban

pytestmark = pytest.mark.one_backend

PACKAGE = pathlib.Path(keras_ban.__file__).parent
FRAMEWORKS = {"tensorflow", "jax", "torch"}
# The floors of the house: a file imports from those below it, and data goes down only once.
ALLOWED = {
    "__init__": {"cloning", "decomposition", "distiller", "ensemble", "exporting", "features"}
    | {"history", "losses", "sequence", "targets"},
    "__main__": {"_model_files", "exporting", "runs", "sequence"},
    "_arrays": set(),
    "_attaching": {"_checks", "_fingerprints", "_outputs", "_pairing", "losses", "targets"},
    "_augmentation": {"_backend"},
    "_augmenting": {"_augmentation", "_backend", "_checks", "_outputs"},
    "_backend": set(),
    "_bench": {"_backend", "_outputs"},
    "_checks": set(),
    "_comparing": {"_keras_losses", "_outputs", "_schedules", "losses"},
    "_data_checks": {"_checks"},
    "_disagreement": {"losses"},
    "_computing": {
        *("_augmentation", "_checks", "_fingerprints", "_keys", "_pairing", "_storage", "_teacher_rows", "_trial"),
        "_workers",
    },
    "_epochs": {"_backend", "_storage", "_workers"},
    "_fingerprints": {"_checks"},
    "_first_batch": {"_backend", "_checks", "_outputs", "_top_k"},
    "_fresh": {"_checks"},
    "_generations": {
        *("_augmentation", "_backend", "_bench", "_checks", "_epochs", "_fresh", "_model_files", "_outputs"),
        *("_parts", "_reading", "_scoring", "_shuffling", "_soft_target_choice", "_workers"),
        *("cloning", "distiller", "ensemble", "history"),
    },
    "_interruptions": set(),
    "_keras_losses": {"_backend", "_masks"},
    "_masks": set(),
    "_keys": {"_checks", "_storage"},
    "_manifest": {"_checks", "_fingerprints", "_fresh", "_model_files"},
    "_model_files": {"_storage", "_workers"},
    "_observing": set(),
    "_outputs": {"_backend", "losses"},
    "_pairing": {"_backend", "_checks", "_fingerprints", "_keys", "_outputs"},
    "_parts": {"_attaching", "_backend", "_checks", "_pairing", "_workers"},
    "_plotting": set(),
    "_processes": set(),
    "_reading": {"_pairing"},
    "_replacing": set(),
    "_run_artefact": set(),
    "_schedules": set(),
    "_scoring": {"_arrays", "_backend", "_checks", "_model_files", "_reading", "_workers", "history"},
    "_served": {"_disagreement", "ensemble"},
    "_sequence_checks": {
        *("_augmentation", "_checks", "_data_checks", "_keras_losses", "_pairing", "_schedules", "_top_k", "_trial"),
    },
    "_shards": {"_storage"},
    "_shuffling": {"_attaching", "_backend", "_checks", "_pairing", "_workers"},
    "_soft_target_choice": {
        "_backend",
        "_checks",
        "_fingerprints",
        "_outputs",
        "_pairing",
        "_top_k",
        "_workers",
        "targets",
    },
    "_storage": {"_workers"},
    "_teacher_rows": {"_augmentation", "_checks", "_fingerprints", "_keys", "_model_files", "_top_k", "_workers"},
    "_teaching": {"_backend"},
    "_top_k": {"_backend"},
    "_torch_workers": {
        *("_attaching", "_augmentation", "_backend", "_checks", "_data_checks", "_masks", "_pairing", "_workers"),
    },
    "_trial": {"_backend", "_checks", "_data_checks", "_outputs"},
    "_verifying": {"_backend", "_processes", "_served"},
    "_workers": {"_backend"},
    "_writing": {"_backend", "_model_files", "_processes", "_served"},
    "cloning": {"_checks"},
    "decomposition": {"_arrays", "_backend", "_checks", "_data_checks", "_trial", "losses", "targets"},
    "distiller": {
        *("_attaching", "_augmentation", "_augmenting", "_backend", "_checks", "_comparing", "_data_checks"),
        *(
            "_first_batch",
            "_keras_losses",
            "_observing",
            "_outputs",
            "_pairing",
            "_parts",
            "_reading",
            "_schedules",
            "_teaching",
            "_top_k",
            "_torch_workers",
            "_trial",
            "_workers",
            "features",
            "losses",
        ),
    },
    "ensemble": {"_checks", "losses"},
    "exporting": {
        *("_backend", "_checks", "_replacing", "_served", "_verifying", "_writing"),
        *("distiller", "ensemble", "sequence"),
    },
    "features": {"_checks", "losses"},
    "history": {"_plotting"},
    "losses/__init__": {"losses"},
    "losses/_base": {"_backend", "_checks", "_masks", "_schedules"},
    "losses/_confidence_weighted": {"_backend", "losses"},
    "losses/_decoupled": {"losses"},
    "losses/_dist": {"losses"},
    "losses/_knowledge_distillation": {"_checks", "losses"},
    "losses/_permuted": {"_checks", "losses"},
    "runs": {"_storage", "_workers", "history"},
    "sequence": {
        *(
            "_checks",
            "_data_checks",
            "_fresh",
            "_generations",
            "_interruptions",
            "_manifest",
            "_model_files",
            "_scoring",
        ),
        *("_sequence_checks", "_workers"),
        *("cloning", "history", "losses", "runs"),
    },
    "targets": {
        *("_arrays", "_augmentation", "_checks", "_computing", "_data_checks", "_fingerprints", "_keys", "_pairing"),
        *("_shards", "_storage", "_teacher_rows", "_top_k", "_workers"),
    },
}


def outside_functions(node):
    """What Python runs as soon as it imports a file."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef):
            yield child
            yield from outside_functions(child)


def imported(path, nodes=ast.walk):
    """Every module that a file imports, anywhere in it; of `from keras_ban import x`, `keras_ban.x`."""
    names = set()
    for node in nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            bare = node.module == "keras_ban"
            names |= {f"keras_ban.{alias.name}" for alias in node.names} if bare else {node.module}
    return names


# By their paths, without endings.
FILES = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}


def test_each_file_imports_from_the_floors_below_it_alone():
    assert set(ALLOWED) == set(FILES)
    for name, path in FILES.items():
        ours = {module.split(".")[1] for module in imported(path) if module.startswith("keras_ban.")}
        assert ours <= ALLOWED[name], f"{name}.py imports {sorted(ours - ALLOWED[name])}"


def test_no_file_uses_keras_internals_and_four_alone_know_the_frameworks():
    # `_run_artefact` is a script for a process that knows neither keras_ban nor a backend: nothing imports it.
    # `_workers` knows what each framework has where several processes train together; `_torch_workers` is imported by
    # torch's workers alone, while they train.
    knowing = {"_backend", "_workers", "_torch_workers", "_run_artefact"}
    for name, path in FILES.items():
        modules = imported(path)
        internals = {module for module in modules if module.startswith("keras.src")}
        frameworks = {module.split(".")[0] for module in modules} & FRAMEWORKS
        assert not internals, f"{name}.py imports {internals}"
        assert not frameworks or name in knowing, f"{name}.py imports {frameworks}"


def test_what_is_neither_keras_nor_numpy_is_imported_when_it_is_used():
    expected = {"keras", "keras_ban", "numpy", *sys.stdlib_module_names}
    for name, path in FILES.items():
        modules = {module.split(".")[0] for module in imported(path, outside_functions)}
        # Torch's workers alone import `_torch_workers`.
        early = modules - expected - ({"torch"} if name == "_torch_workers" else set())
        assert not early, f"{name}.py imports {early} as soon as it is imported"


# Keras is imported already. Its frameworks are forgotten, so that importing them again is noticed.
IMPORT_KERAS_BAN = f"""
import sys
for name in list(sys.modules):
    if name.split(".")[0] in {FRAMEWORKS}:
        del sys.modules[name]
class Refusing:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in {FRAMEWORKS}:
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
        "Distiller",
        "EnsembleModel",
        "FeatureMatching",
        "GenerationRecord",
        "GradientDecomposition",
        "SoftTargets",
        "export",
        "gradient_decomposition",
        "losses",
        "reborn",
        "share_layers",
    }
    assert all(getattr(keras_ban, name).__doc__ for name in keras_ban.__all__)
