"""The project's checks: ``nox`` runs all of them, ``nox -s "tests(jax)"`` runs one."""

import os
import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "tests", "oldest", "wheel"]

BACKENDS = ["tensorflow", "jax", "torch"]

# An exact version, because pip prefers a CPU build ("2.13.0+cpu") to the plain release where its
# configuration offers one, while a plain "torch" takes the newest release and gigabytes of CUDA.
TORCH = "torch==2.13.0"

# Pinned, so that a new release of ruff cannot fail an unchanged checkout.
RUFF = "ruff==0.17.6"

# Taken from the declared lower bound, so that the two cannot drift apart.
OLDEST_KERAS = next(
    dependency.replace(">=", "==")
    for dependency in nox.project.load_toml("pyproject.toml")["project"]["dependencies"]
    if dependency.startswith("keras>=")
)

# Python compiles what is imported; pip would all, half a minute in each environment.
NO_COMPILE = "--no-compile"

# All that is public but for `export`; files, examples and command lines are left out.
OLDEST_TESTS = [
    *("architecture", "augmentation", "cloning", "decomposition", "distiller", "distiller_surface", "ensemble"),
    *("features", "history", "keras_distillation", "keyed_targets", "losses", "objectives", "permuted", "runs"),
    *("schedules", "sequence", "sequence_teachers", "shared_layers", "soft_target_choice", "targets"),
]

CHECK_WHEEL = """
from importlib import metadata, resources
import keras_ban
print(keras_ban.__version__, keras_ban.__file__)
assert "site-packages" in keras_ban.__file__
assert keras_ban.__version__ == metadata.version("keras-ban")
assert resources.files("keras_ban").joinpath("py.typed").is_file()
"""


def run_pytest(session: nox.Session, programs: Path, backend: str, *options: str) -> None:
    # Agg, so that no test needs a display or opens a window; one thread, because the models are too small for more,
    # and threads that wait for each other on busy cores take minutes over what one does in seconds.
    env = {"KERAS_BACKEND": backend, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    # JAX spends most of its tests' time in its compiler, which need not make fast programs; and the oldest Keras asks
    # for the same programs as the newest.
    env |= {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str((session.cache_dir / "jax").absolute()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    pytest = programs.absolute() / "pytest"
    session.run(pytest, "-q", "-n", "2", "--durations=10", *options, *session.posargs, env=env, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(RUFF)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def environment(session: nox.Session) -> None:
    """Install what the tests need on each backend."""
    # On its own and first: with torch already there, nothing below replaces it.
    session.install(NO_COMPILE, TORCH)
    # All three on each backend, because Keras takes a tf.data.Dataset or a torch DataLoader on any of them.
    # KerasCV by its name: its extra would bring another build of TensorFlow. It brings tensorflow-datasets along, which
    # imports importlib_resources without requiring it.
    session.install(NO_COMPILE, "tensorflow-cpu", "jax", "keras-cv", "importlib_resources", ".[test]")


@nox.session(venv_backend="none", requires=["environment"])
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """Run the tests on one Keras backend, in the environment that all three have in common."""
    programs = session.cache_dir.parent / "environment" / ("Scripts" if os.name == "nt" else "bin")
    run_pytest(session, programs, backend)


@nox.session
def oldest(session: nox.Session) -> None:
    """Run tests of what is public on the oldest supported Keras, with JAX as the only framework installed."""
    session.install(NO_COMPILE, OLDEST_KERAS, "jax", ".[test]")
    run_pytest(session, Path(session.bin), "jax", *(f"tests/test_{subject}.py" for subject in OLDEST_TESTS))


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
