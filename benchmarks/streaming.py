"""Train by key on data streamed from disk, and see that memory does not grow with the number of examples (Linux).

    python benchmarks/streaming.py --backend torch --examples 10000000

Writes shards of synthetic examples, then soft targets by key, a shard each, then trains one epoch of a small Distiller
that reads batches of the shards in a random order and finds each soft target by its key. Before, it does the same with
a tenth of the examples. Each is a fresh process; memory is the most that it held (its resident set, pages of mapped
files included).
"""

import argparse
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import numpy as np
from _figures import peak_megabytes, versions

FEATURES, CLASSES, BATCH = 8, 4, 8192


def main():
    arguments = parse_arguments()
    os.environ |= {"KERAS_BACKEND": arguments.backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if arguments.folder is not None:
        run(arguments)
        return
    peaks = []
    for examples in (arguments.examples // 10, arguments.examples):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--backend", arguments.backend, "--seed", str(arguments.seed)]
            command += ["--examples", str(examples), "--shard-size", str(arguments.shard_size), "--folder", folder]
            begin = time.perf_counter()
            result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        soft_targets, training = map(float, result.stdout.split()[-2:])
        peaks.append(max(soft_targets, training))
        shards = examples // arguments.shard_size
        print(
            f"{examples:,} examples in {shards} shards: at most {soft_targets:.0f} MB until the soft targets were "
            f"written, {training:.0f} MB in all ({time.perf_counter() - begin:.0f} s)",
            flush=True,
        )
    print(f"{arguments.backend}: ten times the examples took {peaks[1] / peaks[0]:.2f} times the memory")
    print(f"{platform.platform()}, {os.cpu_count()} cores, seed {arguments.seed}")
    print(*(f"{name} {version}" for name, version in versions(arguments.backend).items()))


def run(arguments):
    """What the process of one size does."""
    import keras

    import keras_ban

    class Shards(keras.utils.PyDataset):
        """Batches of the shards named, in the order that `seed` gives: keys, `x` and labels lie in a file each."""

        def __init__(self, shards, seed=None):
            super().__init__()
            places = [(shard, start) for shard in shards for start in range(0, arguments.shard_size, BATCH)]
            self.places = places if seed is None else np.random.default_rng(seed).permutation(places).tolist()

        @property
        def num_batches(self):
            return len(self.places)

        def __getitem__(self, index):
            shard, start = self.places[index]
            part = np.load(example_path(shard), mmap_mode="r")[start : start + BATCH]
            return np.array(part["x"]), {"labels": np.array(part["y"]), "key": np.array(part["key"])}

    folder = pathlib.Path(arguments.folder)

    def example_path(shard):
        return folder / f"examples-{shard:05d}.npy"

    keras.utils.set_random_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    example = np.dtype([("key", "int64"), ("x", "float32", FEATURES), ("y", "int32")])
    starts = range(0, arguments.examples, arguments.shard_size)
    for shard, start in enumerate(starts):
        keys = rng.permutation(np.arange(start, start + arguments.shard_size))
        examples = np.zeros(len(keys), example)
        examples["key"], examples["y"] = keys, rng.integers(0, CLASSES, len(keys))
        examples["x"] = rng.standard_normal((len(keys), FEATURES)) + np.eye(CLASSES, FEATURES)[examples["y"]]
        np.save(example_path(shard), examples)
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(CLASSES)])
    (folder / "targets").mkdir()
    for shard in range(len(starts)):
        path = folder / "targets" / f"targets-{shard:05d}-of-{len(starts):05d}.npy"
        keras_ban.SoftTargets.from_teacher(model, Shards([shard]), path=path, from_logits=True, verbose=0)
    while_written = peak_megabytes()

    targets = keras_ban.SoftTargets.load(folder / "targets")
    distiller = keras_ban.Distiller(student=keras_ban.reborn(model))
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = Shards(range(len(starts)), arguments.seed)
    distiller.fit(data, soft_targets=targets, epochs=1, shuffle=False, verbose=0)
    print(while_written, peak_megabytes())


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], default="jax", help="default: jax")
    parser.add_argument("--examples", type=int, default=10_000_000, help="default: 10,000,000")
    parser.add_argument("--shard-size", type=int, default=100_000, help="examples in a shard (default: 100,000)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.examples % (10 * arguments.shard_size) and arguments.folder is None:
        parser.error(f"--examples must be a multiple of ten shards, received: {arguments.examples}")
    return arguments


if __name__ == "__main__":
    main()
