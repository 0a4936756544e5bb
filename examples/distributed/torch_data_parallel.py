"""Generations trained by several processes together, on torch: each batch is divided among them.

    python examples/distributed/torch_data_parallel.py --workers 2

That starts two processes on this machine. On many machines, start the script on each of them by torch's own launcher:

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 torch_data_parallel.py

It sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, which are all that `init_process_group` reads, and LOCAL_RANK,
which tells the processes of a machine their GPU. `--directory` must be on a file system that all machines share.
Nothing else changes: batch size and learning rate are those of the whole batch, so the same run in one process gives
the same models, up to rounding.
"""

import argparse
import datetime
import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "torch"

BATCH_SIZE = 64


def main():
    arguments = parse_arguments()
    if "RANK" not in os.environ:
        return start_on_this_machine(arguments.workers)

    import torch

    on_gpus = torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # How long a worker waits for one that does not answer. One that has ended is noticed at once.
    timeout = datetime.timedelta(minutes=5)
    torch.distributed.init_process_group("nccl" if on_gpus else "gloo", timeout=timeout)
    first = torch.distributed.get_rank() == 0

    import keras

    import keras_ban

    train, validation, test = load_digits()
    sequence = keras_ban.BornAgainSequence(
        build_model(), generations=arguments.generations, directory=arguments.directory, seed=0
    )
    sequence.compile(
        optimizer=keras.optimizers.Adam(2e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    # As in one process: whole data, and the batch size of all workers together.
    options = {"batch_size": BATCH_SIZE, "epochs": arguments.epochs, "validation_data": validation}
    sequence.fit(*train, **options, verbose=2 if first else 0)

    history = sequence.evaluate(*test)
    if first:
        print(f"Trained by {torch.distributed.get_world_size()} workers.")
        print(history.summary())
        out = pathlib.Path(arguments.out)
        out.mkdir(parents=True, exist_ok=True)
        sequence.best_model.save(out / "best.keras")
        (out / "history.json").write_text(history.to_json())
        print(f"Wrote best.keras (generation {history.best_generation}) and history.json to {out}/")
    torch.distributed.destroy_process_group()
    return 0


def start_on_this_machine(workers):
    from launch import free_ports, launch

    (port,) = free_ports(1)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(workers)}
    return launch(workers, lambda number: {**shared, "RANK": str(number), "LOCAL_RANK": str(number)})


def build_model():
    """A small CNN, which returns logits; without BatchNorm or Dropout, which act on each worker's part by itself."""
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def load_digits():
    """`(x, y)` for training, validation and test: images `(n, 8, 8, 1)` in [0, 1], labels 0 to 9."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images[..., None] / 16.0).astype("float32")
    parts = np.split(np.random.default_rng(0).permutation(len(images)), [300, 600])
    return [(images[part], digits.target[part]) for part in parts]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="processes on this machine (default: 2)")
    parser.add_argument("--generations", type=int, default=2, help="students after the first teacher (default: 2)")
    parser.add_argument("--epochs", type=int, default=30, help="for each generation (default: 30)")
    parser.add_argument("--directory", help="where generations are kept, so that a run that was stopped goes on")
    parser.add_argument("--out", default="runs/torch_data_parallel", help="folder for the results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
