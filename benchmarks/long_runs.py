"""Train many generations, and see that memory, open files and threads do not grow with them (Linux).

    python benchmarks/long_runs.py --backend jax --generations 20

Memory is the most that the process held (its resident set) while it trained, measured and wrote a generation.
"""

import argparse
import os
import pathlib
import sys
import tempfile

import numpy as np
from _figures import peak_megabytes, versions


def main():
    arguments = parse_arguments()
    os.environ |= {"KERAS_BACKEND": arguments.backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    import keras

    import keras_ban

    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 2000)
    x = (rng.standard_normal((2000, 64)) + np.eye(10, 64)[y]).astype("float32")
    layers = [keras.layers.Dense(512, "relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10)])
    figures = []

    def begin(generation):
        """Called as each generation begins: what the one before took is known."""
        if generation > 0:
            figures.append((peak_megabytes(), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))))
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # The peak is counted anew.
        return []

    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder, "run") if arguments.directory else None
        students = arguments.generations - 1
        sequence = keras_ban.BornAgainSequence(model, generations=students, directory=directory, seed=0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        sequence.compile("adam", loss, metrics=["accuracy"])
        sequence.fit(x, y, epochs=2, batch_size=64, verbose=0, validation_data=(x, y), callbacks=begin)
        begin(arguments.generations)

    print("generation: memory (MB), open files, threads")
    for generation, (memory, files, threads) in enumerate(figures):
        print(f"{generation}: {memory:.0f}, {files}, {threads}")
    first, last = (np.mean(part, axis=0) for part in (figures[:5], figures[-5:]))
    growth = last[0] / first[0] - 1
    print(
        f"{arguments.backend}: the last five generations against the first five: memory {first[0]:.0f} to "
        f"{last[0]:.0f} MB ({growth:+.1%}), open files {first[1]:.1f} to {last[1]:.1f}, "
        f"threads {first[2]:.1f} to {last[2]:.1f}"
    )
    print(*(f"{name} {version}" for name, version in versions(arguments.backend).items()))
    sys.exit(0 if growth <= 0.1 and last[1] <= first[1] and last[2] <= first[2] else 1)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], default="jax", help="default: jax")
    parser.add_argument("--generations", type=int, default=20, help="default: 20")
    parser.add_argument("--directory", action=argparse.BooleanOptionalAction, default=True, help="keep them on disk")
    return parser.parse_args()


if __name__ == "__main__":
    main()
