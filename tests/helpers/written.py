"""Write one file of every kind that keras_ban keeps on disk, and what is in them.

    KERAS_BACKEND=torch PYTHONPATH=.:tests python tests/helpers/written.py tests/written/0.1.0-torch

`test_written_files.py` reads them with later versions. So they are written once, by the version and the backend that
the folder names.
"""

import pathlib
import sys

import keras
import numpy as np

import keras_ban
from helpers.data import make_blobs
from helpers.keys import TEXTS, keyed
from helpers.models import classifier, crossentropy
from helpers.training import interrupted_after

# Two epochs of three steps.
FIT = {"batch_size": 32, "epochs": 2, "verbose": 0}


def small():
    return classifier(units=4, dropout=0.3, batch_norm=True)


def sequence(directory):
    made = keras_ban.BornAgainSequence(small(), generations=1, directory=directory, seed=3, keep_soft_targets=True)
    made.compile(keras.optimizers.Adam(0.02), crossentropy(), metrics=["accuracy"])
    return made


def with_hidden(units):
    layers = [keras.layers.Dense(units, activation="relu", name="hidden"), keras.layers.Dense(3, name="logits")]
    return keras.Sequential([keras.Input((8,)), *layers])


def distiller():
    """With a projection between hidden layers of different widths."""
    schedule = keras.optimizers.schedules.PolynomialDecay(0.8, 4, 0.1)
    made = keras_ban.Distiller(
        student=with_hidden(4),
        teacher=with_hidden(6),
        distillation_loss=keras_ban.losses.KnowledgeDistillation(temperature=4.0),
        label_weight=schedule,
        feature_matching=keras_ban.FeatureMatching(["hidden"], weight=0.5),
    )
    made.compile(keras.optimizers.Adam(0.02), crossentropy(), metrics=["accuracy"])
    return made


def main(folder):
    x, y = make_blobs()
    expected = {"x": x, "y": y}

    finished = sequence(folder / "run")
    history = finished.fit(x, y, validation_data=(x, y), **FIT)
    (folder / "history.json").write_text(history.to_json())
    for number, model in enumerate(finished.models):
        expected[f"generation {number}"] = model.predict(x, verbose=0)

    ensemble = keras_ban.EnsembleModel(finished.models, weights=[1, 3], average="logits")
    ensemble.save(folder / "ensemble.keras")
    expected["ensemble"] = ensemble.predict(x, verbose=0)

    teacher = classifier(units=4)
    noise = keras.layers.GaussianNoise(0.5)
    for name, options in {"dense": {}, "top-k": {"top_k": 2}, "views": {"augmentation": noise, "views": 2}}.items():
        targets = keras_ban.SoftTargets.from_teacher(teacher, x, path=folder / f"{name}.npy", verbose=0, **options)
        expected[name] = np.asarray(targets)
    for shard in range(2):
        path = folder / "shards" / f"targets-{shard:05d}-of-00002.npy"
        path.parent.mkdir(exist_ok=True)
        part = keyed(TEXTS, slice(shard * 48, shard * 48 + 48))
        keras_ban.SoftTargets.from_teacher(teacher, part, path=path, verbose=0)
    expected["shards"] = np.asarray(keras_ban.SoftTargets.load(folder / "shards"))

    trained = distiller()
    trained.fit(x, y, **FIT)
    trained.save(folder / "distiller.keras")
    expected["student"] = trained.student.predict(x, verbose=0)

    with interrupted_after(1, 0):
        sequence(folder / "interrupted").fit(x, y, validation_data=(x, y), **FIT)
    np.savez(folder / "expected.npz", **expected)
    for lock in folder.glob("*/.lock"):
        lock.unlink()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
