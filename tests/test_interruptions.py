"""What a user has after `fit`, `evaluate` or `predict` ended with an error or Ctrl-C, as in a notebook.

Keras on JAX takes the values out of a model meanwhile. Its own models lose them in many of these cases.
"""

import functools
import signal

import keras
import numpy as np
import pytest
from helpers.data import make_blobs
from helpers.models import assert_same, classifier, crossentropy, values

import keras_ban

X, Y = make_blobs()
BATCHES, SIZE = 3, 16
ROWS = X[: BATCHES * SIZE], Y[: BATCHES * SIZE]


class Stop(keras.callbacks.Callback):
    """Ends training by an error or an interrupt, in one place of one batch. The batches count on over the epochs."""

    def __init__(self):
        super().__init__()
        self.begin(None, None, None)

    def begin(self, place, batch, what):
        self.place, self.batch, self.what = place, batch, what
        self.seen, self.reads, self.is_armed = -1, None, False

    def read(self):
        """Count what training reads, not its steps: TensorFlow reads ahead."""
        if self.place == "data" and self.reads is not None:
            self.is_armed = self.reads == self.batch
            self.reads += 1
            self.at("data")

    def at(self, place):
        if self.is_armed and place == self.place:
            self.is_armed = False
            if self.what is signal.SIGINT:
                signal.raise_signal(signal.SIGINT)
            else:
                raise self.what("stopped")

    def on_train_begin(self, logs=None):
        self.reads = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.seen += 1
        if self.place != "data":
            self.is_armed = self.seen == self.batch
        self.at("batch begin")

    def on_train_batch_end(self, batch, logs=None):
        self.at("batch end")

    def on_test_batch_end(self, batch, logs=None):
        self.at("validation")

    def on_epoch_end(self, epoch, logs=None):
        self.at("epoch end")


class Data(keras.utils.PyDataset):
    def __init__(self, stop):
        super().__init__()
        self.stop = stop

    def __len__(self):
        return BATCHES

    def __getitem__(self, index):
        self.stop.read()
        rows = slice(index * SIZE, (index + 1) * SIZE)
        return X[rows], Y[rows]


class Layer(keras.layers.Layer):
    def __init__(self, stop):
        super().__init__()
        self.stop = stop

    def call(self, inputs):
        self.stop.at("layer")
        return inputs


class Metric(keras.metrics.SparseCategoricalAccuracy):
    def __init__(self, stop):
        super().__init__(name="accuracy")
        self.stop = stop

    def update_state(self, *args, **kwargs):
        self.stop.at("metric")
        return super().update_state(*args, **kwargs)


class Loss(keras.losses.SparseCategoricalCrossentropy):
    def __init__(self, stop):
        super().__init__(from_logits=True)
        self.stop = stop

    def call(self, y_true, y_pred):
        self.stop.at("loss")
        return super().call(y_true, y_pred)


def interrupted_at_the_end_of(make, kind, stop):
    """`make_train_function` and the like, so that Ctrl-C comes while the step runs: Python sees it when it is over."""

    def make_function(self, force=False):
        if getattr(self, f"{kind}_function") is not None and not force:
            return
        make(self, force)
        step = getattr(self, f"{kind}_function")

        def interrupted(*args):
            found = step(*args)
            stop.at("step")
            return found

        setattr(self, f"{kind}_function", interrupted)

    return make_function


def make(kind, stop):
    """A compiled Distiller or ensemble of two classifiers."""
    keras.utils.set_random_seed(1)
    first, second = classifier(), classifier()
    first = keras.Sequential([keras.Input((8,)), Layer(stop), *first.layers])
    arguments = {"student": first, "teacher": second} if kind is keras_ban.Distiller else {"members": [first, second]}

    class Interrupted(kind):
        make_train_function = interrupted_at_the_end_of(kind.make_train_function, "train", stop)

    model = Interrupted(**arguments)
    # The momentum is part of what must be kept.
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), Loss(stop), metrics=[Metric(stop)])
    return model


@functools.cache
def pair(kind):
    """Two models and their initial values, for all cases that need no new trace: compiling takes long on JAX."""
    stops = Stop(), Stop()
    models = [make(kind, stop) for stop in stops]
    for model in models:
        model.optimizer.build(model.trainable_variables)
    return models, stops[0], state_of(models[0])


def variables_of(model):
    return [*model.variables, *model.optimizer.variables]


def state_of(model):
    return [keras.ops.convert_to_numpy(variable.value).copy() for variable in variables_of(model)]


PLACES = [
    *[("batch begin", batch, batch) for batch in (0, 4)],
    *[("batch end", batch, batch + 1) for batch in (0, 4)],
    *[("validation", batch, batch + 1) for batch in (2, 5)],
    ("epoch end", 2, 3),
    *[("data", batch, None) for batch in (0, 1, 3, 4)],
    # Ctrl-C waits for the end of the step on JAX alone.
    *[(place, 0, None) for place in ("layer", "loss", "metric")],
]
CASES = [(*place, what) for place in PLACES for what in (ArithmeticError, signal.SIGINT)]
CASES += [("step", batch, batch + 1, signal.SIGINT) for batch in (0, 1, 3, 5)]


@pytest.mark.parametrize(("place", "batch", "steps", "what"), CASES)
@pytest.mark.parametrize("kind", [keras_ban.Distiller, keras_ban.EnsembleModel])
def test_a_fit_that_ends_early_leaves_the_state_after_its_last_step(kind, place, batch, steps, what):
    (model, twin), stop, initial = pair(kind)
    if place in ("layer", "loss", "metric"):
        stop = Stop()
        model = make(kind, stop)
        model.optimizer.build(model.trainable_variables)
    for each in (model, twin):
        set_state(each, initial)
    stop.begin(place, batch, what)
    teacher = getattr(model, "teacher", None)
    before = teacher and values(teacher)

    with pytest.raises(BaseException) as ended:
        model.fit(Data(stop), epochs=2, shuffle=False, validation_data=ROWS, callbacks=[stop], verbose=0)

    if place != "data":  # TensorFlow hands on what a dataset raises inside an error of its own.
        assert isinstance(ended.value, KeyboardInterrupt if what is signal.SIGINT else what)
    taken = int(keras.ops.convert_to_numpy(model.optimizer.iterations.value))
    assert steps in (None, taken)
    if place == "data" and keras.backend.backend() == "tensorflow":
        taken = 0  # It reads the next batch while a step runs, and an error in one ends both.
        for each in (model, twin):
            set_state(each, initial)
    for step in range(taken):
        rows = slice(step % BATCHES * SIZE, (step % BATCHES + 1) * SIZE)
        twin.train_on_batch(X[rows], Y[rows])
    assert_close(twin, model)
    assert teacher is None or assert_same(before, values(teacher)) is None

    # The next cells.
    model.summary(print_fn=str)
    assert np.isfinite(model.evaluate(*ROWS, verbose=0)).all() and np.isfinite(model.predict(X, verbose=0)).all()
    for each in (model, twin):
        each.fit(*ROWS, batch_size=SIZE, shuffle=False, verbose=0)
    assert_close(twin, model)


def set_state(model, state):
    for variable, value in zip(variables_of(model), state, strict=True):
        variable.assign(value)


def assert_close(expected, actual):
    """Of two models, and of their optimizers."""
    for e, a in zip(state_of(expected), state_of(actual), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)  # `fit` and `train_on_batch` may round differently.


def from_teacher(model):
    keras_ban.SoftTargets.from_teacher(model, X, batch_size=SIZE)


USES = {
    "a teacher that predicts soft targets": (lambda first, second: first, from_teacher),
    "members of an ensemble that predicts": (
        lambda first, second: keras_ban.EnsembleModel([first, second]),
        lambda model: model.predict(X, batch_size=SIZE, verbose=0),
    ),
    "members of an ensemble that is evaluated": (
        lambda first, second: keras_ban.EnsembleModel([first, second]),
        lambda model: model.evaluate(X, Y, batch_size=SIZE, verbose=0),
    ),
    "the student of a Distiller that is evaluated": (
        lambda first, second: keras_ban.Distiller(student=first, teacher=second),
        lambda model: model.evaluate(X, Y, batch_size=SIZE, verbose=0),
    ),
}


@pytest.mark.parametrize("name", USES)
def test_ctrl_c_in_a_step_that_trains_nothing_changes_no_model(name, monkeypatch):
    make, use = USES[name]
    first, second = classifier(), classifier()
    model, stop = make(first, second), Stop()
    model.compile("sgd", crossentropy())
    for kind in ("predict", "test"):
        method = f"make_{kind}_function"
        wrapped = interrupted_at_the_end_of(getattr(type(model), method), kind, stop)
        monkeypatch.setattr(type(model), method, wrapped)
    before = values(first), values(second)
    stop.begin("step", None, signal.SIGINT)
    stop.is_armed = True

    with pytest.raises(KeyboardInterrupt):
        use(model)

    assert not stop.is_armed and signal.default_int_handler is signal.getsignal(signal.SIGINT)
    for expected, each in zip(before, (first, second), strict=True):
        assert_same(expected, values(each))
    use(model)


def test_an_ensemble_from_a_file_keeps_its_weights_too(tmp_path):
    """Its optimizer is built late, by a `make_train_function` of its own."""
    stop = Stop()
    saved = keras_ban.EnsembleModel([classifier(), classifier()])
    saved.compile(keras.optimizers.SGD(0.0), crossentropy())
    saved.save(tmp_path / "ensemble.keras")
    model = keras.saving.load_model(tmp_path / "ensemble.keras")
    made, before = vars(model)["make_train_function"], values(model)
    stop.begin("data", BATCHES, ArithmeticError)

    with pytest.raises(Exception, match="stopped"):
        model.fit(Data(stop), epochs=2, shuffle=False, validation_data=ROWS, callbacks=[stop], verbose=0)

    assert made is vars(model)["make_train_function"]
    assert_same(before, values(model))
    model.fit(*ROWS, verbose=0)


def test_a_teacher_that_keras_left_without_weights_teaches():
    """Keras on JAX does not put them back if its own `predict` is interrupted."""
    teacher, stop = classifier(), keras.callbacks.Callback()
    before = values(teacher)
    stop.on_predict_batch_end = lambda batch, logs=None: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        teacher.predict(X, batch_size=SIZE, verbose=0, callbacks=[stop])

    model = keras_ban.Distiller(student=classifier(), teacher=teacher)
    model.compile("sgd", crossentropy())
    model.fit(*ROWS, verbose=0)

    assert_same(before, values(teacher))


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX deletes values")
def test_lost_weights_are_named_with_what_to_do_on_jax(tmp_path):
    student, teacher = classifier(), classifier()
    model = keras_ban.Distiller(student=student, teacher=teacher)
    model.compile("sgd", crossentropy())
    model.fit(*ROWS, verbose=0)
    student.save_weights(tmp_path / "student.weights.h5")
    for use, lost in (
        (lambda: model.fit(*ROWS, verbose=0), student),
        (lambda: model.evaluate(*ROWS, verbose=0), student),
        (lambda: model.predict(X, verbose=0), student),
        (lambda: keras_ban.EnsembleModel([teacher, student]).predict(X, verbose=0), student),
        (lambda: from_teacher(student), student),
        (lambda: model.fit(*ROWS, verbose=0), teacher),
    ):
        for variable in lost.variables:
            variable.value.delete()
        with pytest.raises(ValueError, match=r"weights of the model .* are lost.*load_weights.*compile"):
            use()
        lost.load_weights(tmp_path / "student.weights.h5")
        model.compile("sgd", crossentropy())
        model.fit(*ROWS, verbose=0)


def averaged(model):
    """A model whose weights are their averages from the end of `fit` on. Keras on JAX then has one value for both."""
    model.compile(keras.optimizers.Adam(0.01, use_ema=True), crossentropy(), metrics=["accuracy"])
    return model


AVERAGED = {
    "Distiller": lambda: averaged(keras_ban.Distiller(student=classifier(), teacher=classifier())),
    "EnsembleModel": lambda: averaged(keras_ban.EnsembleModel([classifier(), classifier()])),
}


@pytest.mark.parametrize("make", AVERAGED.values(), ids=AVERAGED.keys())
def test_averages_of_weights_are_kept(make):
    model = make()
    model.fit(*ROWS, verbose=0)
    before = values(model), [keras.ops.convert_to_numpy(each) for each in model.optimizer.variables]
    for each in [*(getattr(model, "members", None) or [model.student]), model]:
        each.predict(X, verbose=0)
    model.evaluate(*ROWS, verbose=0)
    model.predict(X, verbose=0)
    for old, new in zip(before[1], model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(new))
    assert_same(before[0], values(model))
    model.fit(*ROWS, verbose=0)


USES_OF_TEACHER = {
    "Distiller": lambda teacher: ready(keras_ban.Distiller(student=classifier(), teacher=teacher)).fit(
        *ROWS, verbose=0
    ),
    "soft targets": lambda teacher: keras_ban.SoftTargets.from_teacher(teacher, X, verbose=0),
    "EnsembleModel": lambda teacher: ready(keras_ban.EnsembleModel([teacher, classifier()])).fit(*ROWS, verbose=0),
}


def ready(model):
    model.compile("sgd", crossentropy())
    return model


@pytest.mark.parametrize("use", USES_OF_TEACHER.values(), ids=USES_OF_TEACHER.keys())
def test_a_teacher_of_averaged_weights_that_keras_measured_can_be_used(use):
    teacher = averaged(classifier())
    teacher.fit(*ROWS, verbose=0)
    teacher.evaluate(*ROWS, verbose=0)  # Deletes the averages on JAX.
    use(teacher)
