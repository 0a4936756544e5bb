"""The project's checks. ``nox`` runs the README's test command, ``nox -s quick`` the shortest of them."""

import os
import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "tests", "docs", "wheel"]

# torch compiles nothing, so that small models take the least time there.
FASTEST = "torch"
BACKENDS = [FASTEST, "tensorflow", "jax"]

# An exact version, because pip prefers a CPU build ("2.13.0+cpu") to the plain release where its
# configuration offers one, while a plain "torch" takes the newest release and gigabytes of CUDA.
TORCH = "torch==2.13.0"

# Pinned, so that a new release of ruff or mypy cannot fail an unchanged checkout.
RUFF = "ruff==0.17.6"
MYPY = "mypy==2.4.1"

# Taken from the declared lower bound, so that the two cannot drift apart.
OLDEST_KERAS = next(
    dependency.replace(">=", "==")
    for dependency in nox.project.load_toml("pyproject.toml")["project"]["dependencies"]
    if dependency.startswith("keras>=")
)

# Python compiles what is imported; pip would all, half a minute in each environment.
NO_COMPILE = "--no-compile"

# Tests of examples and benchmarks lie in folders of their own.
PACKAGE_ALONE = ["--ignore=tests/examples", "--ignore=tests/benchmarks"]
# Each of these tests trains several generations, which TensorFlow would trace for minutes. Those that depend on the
# backend run there anyway.
LONG_ON_TENSORFLOW = ["--ignore=tests/test_controls.py", "--ignore=tests/test_generation_length.py"]
PAGES = "tests/test_documentation.py::test_the_python_blocks_of_a_page_run_one_after_the_other"
LONG_ON_TENSORFLOW += [f"--deselect={PAGES}"]

CHECK_WHEEL = """
from importlib import metadata, resources
import keras_ban
print(keras_ban.__version__, keras_ban.__file__)
assert "site-packages" in keras_ban.__file__
assert keras_ban.__version__ == metadata.version("keras-ban")
assert resources.files("keras_ban").joinpath("py.typed").is_file()
"""


def run_pytest(
    session: nox.Session, programs: Path, backend: str, *options: str | Path, env: dict[str, str] | None = None
) -> None:
    # Agg needs no display. The models are too small for more than one thread each.
    variables: dict[str, str | None] = {"KERAS_BACKEND": backend, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    # A new interpreter that finds no bytecode compiles all of Keras, TensorFlow and torch, which takes 15 seconds.
    variables |= {"PYTHONDONTWRITEBYTECODE": None}
    # JAX spends most of the time in its compiler, which need not make fast programs here.
    # The sessions of JAX share what it compiled.
    variables |= {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str((session.cache_dir / "jax").absolute()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    pytest = programs.absolute() / "pytest"
    if not pytest.exists():
        session.error("The environment of the tests is missing. Run `nox -s environment` first.")
    two_workers = ["-n", "2", "--dist", "worksteal"]
    arguments = ["-q", *two_workers, "--durations=10", *options, *session.posargs]
    session.run(pytest, *arguments, env=variables | (env or {}), external=True)


def shared_programs(session: nox.Session) -> Path:
    """The programs in the environment that all backends share."""
    return session.cache_dir.parent / "environment" / ("Scripts" if os.name == "nt" else "bin")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and type hints."""
    session.install(RUFF, MYPY)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")


@nox.session
def environment(session: nox.Session) -> None:
    """Install what the tests need on each backend."""
    # On its own and first: with torch already there, nothing below replaces it.
    session.install(NO_COMPILE, TORCH)
    # All three on each backend, because Keras takes a tf.data.Dataset or a torch DataLoader on any of them.
    # KerasCV by its name: its extra would bring another build of TensorFlow. It brings tensorflow-datasets along, which
    # imports importlib_resources without requiring it.
    session.install(NO_COMPILE, "tensorflow-cpu", "jax", "keras-cv", "importlib_resources", "-e", ".[test,docs]")
    # Tasks that are built in memory need no TensorFlow Text, which would replace TensorFlow, and nothing for presets.
    session.install(NO_COMPILE, "--no-deps", "keras-hub==0.32.0", "tokenizers", "regex")


@nox.session(venv_backend="none", requires=["environment"])
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """Run all tests on torch, and on TensorFlow and JAX those that depend on the backend. Leave slow tests out."""
    marked = "not slow" if backend == FASTEST else "not slow and not one_backend"
    run_pytest(session, shared_programs(session), backend, "-m", marked)


@nox.session(venv_backend="none")
def quick(session: nox.Session) -> None:
    """Run the tests of the package on torch, but for those that start processes."""
    run_pytest(session, shared_programs(session), FASTEST, "-m", "not slow and not new_process", *PACKAGE_ALONE)


@nox.session(venv_backend="none")
def rest(session: nox.Session) -> None:
    """Run on TensorFlow the tests of `quick` that `tests` leaves out there, but for long ones. On JAX, see `oldest`."""
    marked = "one_backend and not slow and not new_process"
    run_pytest(session, shared_programs(session), "tensorflow", "-m", marked, *PACKAGE_ALONE, *LONG_ON_TENSORFLOW)


@nox.session(venv_backend="none")
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def full(session: nox.Session, backend: str) -> None:
    """Run every test on one Keras backend, slow ones too."""
    run_pytest(session, shared_programs(session), backend, "-m", "")


@nox.session(venv_backend="none")
@nox.parametrize("model", ["distiller", "ensemble"], ids=["distiller", "ensemble"])
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def keras_suites(session: nox.Session, backend: str, model: str) -> None:
    """Run Keras's own tests with a Distiller or an ensemble in place of the model. For the night."""
    programs = shared_programs(session)
    find = "import pathlib, importlib.util as u; print(pathlib.Path(u.find_spec('keras').origin).parent / 'src')"
    source = Path(session.run(programs.absolute() / "python", "-c", find, external=True, silent=True).strip())
    files = [source / name for name in ("trainers/trainer_test.py", "callbacks", "models/model_test.py")]
    files += [source / "models/cloning_test.py"]
    # Keras's own Distiller, of which ours takes the place.
    files += [source / "distillation"] if model == "distiller" else []
    # One needs orbax, the other a file of Keras's repository.
    ignored = [source / "callbacks" / name for name in ("orbax_checkpoint_test.py", "remote_monitor_test.py")]
    # Keras's tests warn on purpose.
    options = ["-p", "keras_suites.plugin", "-p", "no:cacheprovider", "-W", "ignore"]
    options += ["-c", Path("tests/keras_suites/pytest.ini").absolute(), "--rootdir", source]
    options += [f"--ignore={path}" for path in ignored]
    env = {"KERAS_SUITES_MODEL": model, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), str(Path.cwd() / "tests")])}
    run_pytest(session, programs, backend, *options, *files, env=env)


@nox.session(venv_backend="none", requires=["environment"])
def docs(session: nox.Session) -> None:
    """Run the code of the documentation's pages, and build the site in `build/docs`. Warnings are errors."""
    python = shared_programs(session).absolute() / "python"
    env = {"KERAS_BACKEND": FASTEST, "OMP_NUM_THREADS": "1"}
    options = ["--fail-on-warning", "-q", "-E", "-j", "2", *session.posargs]
    session.run(python, "-m", "sphinx", *options, "docs", "build/docs", env=env, external=True)


@nox.session
def oldest(session: nox.Session) -> None:
    """Run the tests of the package on the oldest supported Keras, with JAX as the only framework installed."""
    session.install(NO_COMPILE, OLDEST_KERAS, "jax", "-e", ".[test]")
    run_pytest(session, Path(session.bin), "jax", "-m", "not slow and not new_process", *PACKAGE_ALONE)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it in an otherwise empty environment and import it."""
    # Outside the checkout, where an import can only find the installed package.
    with tempfile.TemporaryDirectory() as directory:
        # pip builds in an environment of its own, so that this one stays empty.
        session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", directory, ".")
        (built,) = Path(directory).glob("*.whl")
        session.install(f"{built}[jax]")
        with session.chdir(directory):
            session.run("python", "-c", CHECK_WHEEL, env={"KERAS_BACKEND": "jax"})
            session.run("keras-ban", "--help")
