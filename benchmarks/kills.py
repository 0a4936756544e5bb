"""Kill a run again and again, continue it each time, and compare what it ends in with a run that was left alone.

    python benchmarks/kills.py --backend jax --kills 200

Half of the kills come at random moments of the whole run, the others where the run's directory is written to: just
before one of its files or folders is opened, made, renamed or removed. After a kill, one of these may happen, too:

- power loss (after kills of the second kind): what was written and not flushed is cut at a random place, and renames
  that were not flushed are undone;
- an older copy of the manifest is put back;
- the state of an epoch is replaced by that of a run with another seed.

No model that was finished may be lost: it must be in the directory, whole, in its folder or set aside. Each run must
end in the very weights and history of the run that was left alone. The process is forked from one that has imported
everything and computed nothing (Linux).
"""

import argparse
import hashlib
import importlib.util
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback

WRITES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
# What may happen after a kill.
AFTER = ("power losses", "older manifests", "foreign epochs")


def main():
    arguments = parse_arguments()
    os.environ |= {"KERAS_BACKEND": arguments.backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from _figures import versions

    import_all()
    with tempfile.TemporaryDirectory() as folder:
        figures = Harness(pathlib.Path(folder), arguments.seed).run(arguments.kills)
    print(
        f"{arguments.backend}: {figures['kills']} kills, {figures['in_writes']} of them where the directory is written "
        f"to; {figures['runs']} runs came to their end, {figures['same']} of them in the weights and the history of "
        f"the run that was left alone; {figures['lost']} finished models lost; seed {arguments.seed}"
    )
    print(*(f"{name}: {figures[name]}" for name in AFTER), sep=", ")
    print(*(f"{name} {version}" for name, version in versions(arguments.backend).items()))
    sys.exit(0 if figures["runs"] == figures["same"] and figures["lost"] == 0 else 1)


def import_all():
    """Import what training imports, TensorFlow among it on each backend where it is installed: no child needs to."""
    for name in ("keras_ban", "h5py", "pandas", "scipy", "tensorflow"):
        if importlib.util.find_spec(name):
            importlib.import_module(name)


class Harness:
    """Runs that are killed, in folders of their own.

    Args:
        folder: an empty folder.
        seed: of the moments.
    """

    def __init__(self, folder, seed):
        self._folder = folder
        self._random = random.Random(seed)
        begin = time.perf_counter()
        self._train(folder / "alone")
        self._seconds = time.perf_counter() - begin
        self._expected = self._result(folder / "alone")
        self._foreign = folder / "foreign"
        while not (self._foreign / "epoch.npz").exists():
            shutil.rmtree(self._foreign, ignore_errors=True)
            self._train(self._foreign, write=self._random.randint(1, self._expected["writes"]), seed=1)
        self.figures = {"kills": 0, "in_writes": 0, "runs": 0, "same": 0, "lost": 0, **dict.fromkeys(AFTER, 0)}

    def run(self, kills):
        """Return the figures after so many kills; what is running then comes to its end."""
        number, figures = 0, self.figures
        while figures["kills"] < kills:
            directory, finished, manifests = self._folder / f"run-{number}", set(), []
            while True:
                in_writes = self._random.random() < 0.5
                if figures["kills"] == kills:
                    killed = self._train(directory)
                elif in_writes:
                    killed = self._train(directory, write=self._random.randint(1, self._expected["writes"]))
                else:
                    killed = self._train(directory, seconds=self._random.uniform(0, self._seconds))
                if not killed:
                    break
                figures["kills"] += 1
                figures["in_writes"] += in_writes
                figures["lost"] += len(finished - models_in(directory))
                finished |= finished_models(directory)
                self._harm(directory, manifests, in_writes)
                print(f"kill {figures['kills']}: {len(finished)} models", file=sys.stderr, flush=True)
            figures["runs"] += 1
            figures["lost"] += len(finished - models_in(directory))
            same = self._result(directory)["digest"] == self._expected["digest"]
            figures["same"] += same
            print(f"run {number} has ended{'' if same else ' IN SOMETHING ELSE'}", file=sys.stderr, flush=True)
            number += 1
        return figures

    def _harm(self, directory, manifests, in_writes):
        """Do one of the things that may happen after a kill, or none."""
        manifest, epoch = directory / "run.json", directory / "epoch.npz"
        what = self._random.choice([None, *AFTER])
        if what == "power losses" and in_writes:
            lose_power(directory, json.loads(directory.with_suffix(".unflushed").read_text()), self._random)
        elif what == "older manifests" and manifest.exists() and manifests:
            older = self._random.randrange(len(manifests))
            manifest.write_bytes(manifests[older])
            # The folders of generations that only later ones name are set aside.
            del manifests[older:]
        elif what == "foreign epochs" and epoch.exists():
            shutil.copy(self._foreign / "epoch.npz", epoch)
        else:
            what = None
        if manifest.exists():
            manifests.append(manifest.read_bytes())
        if what is not None:
            self.figures[what] += 1

    def _train(self, directory, write=None, seconds=None, seed=0):
        """Train in a process of its own, up to that write or so many seconds; return whether it was killed."""
        begin = time.perf_counter()
        process = os.fork()
        if process == 0:
            status = 1
            try:
                train(directory, write, directory.with_suffix(".json"), seed)
                status = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(status)
        ended = 0
        while seconds is not None and ended == 0 and time.perf_counter() - begin < seconds:
            time.sleep(0.001)
            ended, status = os.waitpid(process, os.WNOHANG)
        if ended == 0:
            if seconds is not None:
                os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"Training in {directory} failed, with exit code {code}.")
        return code != 0

    def _result(self, directory):
        return json.loads(directory.with_suffix(".json").read_text())


class Unflushed:
    """Notes what a power loss would take: files written, and names given, since they were last flushed."""

    def __init__(self):
        self.files, self.renames = set(), []
        fsync = os.fsync

        def noted(descriptor):
            fsync(descriptor)
            path = os.readlink(f"/proc/self/fd/{descriptor if isinstance(descriptor, int) else descriptor.fileno()}")
            self.files.discard(path)
            self.renames = [pair for pair in self.renames if os.path.dirname(pair[1]) != path]

        os.fsync = noted

    def note(self, event, arguments):
        if event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            self.files.add(os.fspath(arguments[0]))
        elif event == "os.rename":
            source, target = map(os.fspath, arguments[:2])
            self.files = {target + path[len(source) :] if path.startswith(source) else path for path in self.files}
            # What a file had replaced cannot be had back: such a rename is taken as done.
            if not os.path.exists(target):
                self.renames.append((source, target))


def lose_power(directory, unflushed, draw):
    """Cut each unflushed file at a random place, and undo the last renames. `.lock` is written anew by each process."""
    for path in map(pathlib.Path, unflushed["files"]):
        if path.is_file() and path.name != ".lock":
            os.truncate(path, draw.randint(0, path.stat().st_size))
    for source, target in reversed(unflushed["renames"]):
        if os.path.exists(target) and not os.path.exists(source):
            os.rename(target, source)


def train(directory, kill_at, result, seed):
    """Train, or go on, to the end; write down a digest of what came out, and how often the directory was written to."""
    import keras
    import numpy as np

    import keras_ban

    writes, unflushed = 0, Unflushed()

    def count(event, arguments):
        nonlocal writes
        if event in WRITES and isinstance(arguments[0], (str, os.PathLike)):
            path = pathlib.Path(os.fspath(arguments[0]))
            if path != directory and directory not in path.parents:
                return
            writes += 1
            if writes == kill_at:
                noted = {"files": sorted(unflushed.files), "renames": unflushed.renames}
                directory.with_suffix(".unflushed").write_text(json.dumps(noted))
                os.kill(os.getpid(), signal.SIGKILL)
            unflushed.note(event, arguments)

    sys.addaudithook(count)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 96)
    x = (rng.standard_normal((96, 8)) + 1.5 * np.eye(3, 8)[y]).astype("float32")
    layers = [keras.layers.Dense(16, "relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3)])
    sequence = keras_ban.BornAgainSequence(model, generations=2, directory=directory, seed=seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sequence.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    history = sequence.fit(x, y, batch_size=32, epochs=3, verbose=0, validation_data=(x, y)).to_dict()

    digest = hashlib.sha256()
    for trained in sequence.models:
        for weight in trained.weights:
            digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight.value)).tobytes())
    for record in history["records"]:
        record.pop("seconds")
    digest.update(json.dumps(history).encode())
    result.write_text(json.dumps({"digest": digest.hexdigest(), "writes": writes}))


def finished_models(directory):
    """The checksums of the models that the manifest names. Each must be whole."""
    from keras_ban._src.runs.directory import RunDirectory

    if not (directory / "run.json").exists():
        return set()
    run = RunDirectory(directory).read()
    return {checksum(run.model_file(number)) for number in range(len(run.entries))}


def models_in(directory):
    """The checksums of all models in a directory, those set aside included."""
    return {checksum(path) for path in directory.glob("*/model.keras")}


def checksum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], default="jax", help="default: jax")
    parser.add_argument("--kills", type=int, default=200, help="default: 200")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
