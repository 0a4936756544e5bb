"""Small sequences, and their generations trained by hand."""

import keras

from helpers.models import classifier, crossentropy
from helpers.training import fit_in_order
from keras_ban import BornAgainSequence, Distiller, reborn

# One step an epoch, and eagerly, where a test is not about the compiled step: tracing it would take most of the time.
# Equal shapes for the same reason: JAX compiles each operation once for each shape.
FIT = {"batch_size": 96, "verbose": 0}
# Adam's first step tells the signs of the gradient alone. The momentum may not pass from one generation to the next.
MOMENTUM = {"class_name": "SGD", "config": {"learning_rate": 0.2, "momentum": 0.9}}


def compiled(model=None, generations=1, optimizer=MOMENTUM, loss=None, metrics=None, run_eagerly=True, **arguments):
    """A compiled sequence of one student of `classifier()`, unless told otherwise."""
    model = classifier() if model is None else model
    sequence = BornAgainSequence(model, generations, **{"seed": 3, **arguments})
    sequence.compile(optimizer, loss or crossentropy(), metrics=metrics, run_eagerly=run_eagerly)
    return sequence


def by_hand(
    sequence, generation, data, distiller=None, build=None, optimizer=MOMENTUM, metrics=None, run_eagerly=True, **fit
):
    """Train a generation anew under its recorded seed, without the sequence. Return the model and its logs.

    Keras alone trains it. With `distiller`, a `Distiller` of these arguments trains it. `build` makes the model, if it
    is given.
    """
    seed = sequence.history.records[generation].seed
    keras.utils.set_random_seed(seed)
    student = reborn(sequence.model) if build is None else build(generation)
    trainer = student if distiller is None else Distiller(student=student, **distiller)
    trainer.compile(optimizer, crossentropy(), metrics=metrics, run_eagerly=run_eagerly)
    return student, fit_in_order(trainer, seed, *data, **{**FIT, **fit}).history
