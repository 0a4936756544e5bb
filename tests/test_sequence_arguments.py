"""What a `BornAgainSequence` refuses: its own arguments, those of `compile`, and those of `fit` before it trains."""

import inspect
import math
import re

import keras
import numpy as np
import pytest
from helpers.data import CLASSES, Batches, make_blobs
from helpers.models import classifier, crossentropy
from helpers.sequences import FIT, compiled

from keras_ban import BornAgainSequence
from keras_ban.losses import KnowledgeDistillation

BINARY = keras.losses.BinaryCrossentropy(from_logits=True)

pytestmark = pytest.mark.one_backend

X, Y = make_blobs()


# The constructor


NO_MODEL = "`model` must be a `keras.Model`, or a callable `build(generation)`"
NO_LOSS = "`distillation_loss` must be a `keras.losses.Loss` instance"
NO_WAY = "`teach_from` must be 'last' or 'ensemble'"
DEAF = "it would not hear its teacher"
NOT_TOP_K = "not known to compare those"


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        *(
            (
                ValueError,
                {"generations": each},
                f"`generations` must be a whole number of at least 1, received: {each!r}",
            )
            for each in [0, -1, 2.5, True, "3", None]
        ),
        *(
            (ValueError, {"label_weight": each}, f"`label_weight` must be a number in [0, 1], received: {each!r}")
            for each in [1.5, -0.1, math.nan, math.inf, "0.5", True, None]
        ),
        (
            ValueError,
            {"label_weight": [0.5]},
            "generation 1 first: with generations=2 that are 2, received 1: [0.5]",
        ),
        (ValueError, {"label_weight": (0.5, 0.5, 0.5)}, "that are 2, received 3"),
        (
            ValueError,
            {"label_weight": [0.5, 1.5]},
            "Generation 2: `label_weight` must be a number in [0, 1], received: 1.5",
        ),
        (
            ValueError,
            {"label_weight": lambda generation: -generation},
            "Generation 1: `label_weight` must be a number in [0, 1], received: -1",
        ),
        (ValueError, {"label_weight": np.array([0.5, 0.5])}, "`label_weight` must be a number in [0, 1]"),
        *(
            (ValueError, {"seed": each}, f"`seed` must be a whole number of at least 0, or None, received: {each!r}")
            for each in [-1, 1.5, "0", True]
        ),
        *((TypeError, {"model": each}, NO_MODEL) for each in ["resnet", None, 3]),
        *(
            (TypeError, {"distillation_loss": each}, NO_LOSS)
            for each in ["kl_divergence", 2.0, keras.losses.kl_divergence, [None, "mse"]]
        ),
        (ValueError, {"teach_from": "first"}, f"{NO_WAY}, received: 'first'"),
        (ValueError, {"teach_from": ["last"]}, NO_WAY),
        (ValueError, {"distill_ensemble": 2}, "`distill_ensemble` must be True or False, received: 2"),
        (ValueError, {"distill_ensemble": True, "label_weight": 1.0}, DEAF),
        (ValueError, {"distill_ensemble": True, "label_weight": [0.5, 1]}, DEAF),
        (ValueError, {"soft_targets": True}, "must be 'auto', 'cached' or 'online', received: True"),
        (ValueError, {"top_k": 0}, "`top_k` must be a whole number of at least 1, received: 0"),
        (ValueError, {"top_k": 2, "soft_targets": "online"}, "with soft_targets='online' none are"),
        (ValueError, {"top_k": 2, "distillation_loss": KnowledgeDistillation(activation="sigmoid")}, NOT_TOP_K),
        (ValueError, {"top_k": 2, "distillation_loss": keras.losses.MeanSquaredError()}, "Leave `top_k` out"),
        (ValueError, {"top_k": 2, "distillation_loss": {"a": KnowledgeDistillation()}}, NOT_TOP_K),
        (TypeError, {"shared_layers": "stem"}, "`shared_layers` must be a list of layer names, or a dict"),
    ],
)
def test_a_sequence_refuses_arguments_of_another_kind(error, arguments, message):
    with pytest.raises(error, match=re.escape(message)):
        BornAgainSequence(**{"model": classifier(), "generations": 2, **arguments})


# Before there is something


def test_fit_before_compile_is_refused(blobs):
    with pytest.raises(ValueError, match=r"You must call `compile\(\)` before calling `fit\(\)`"):
        BornAgainSequence(classifier()).fit(*blobs)


@pytest.mark.parametrize(
    "use",
    [lambda s: s.ensemble(), lambda s: s.best_model, lambda s: s.evaluate(X, Y), lambda s: s.soup()],
    ids=["ensemble", "best_model", "evaluate", "soup"],
)
def test_what_needs_trained_generations_says_so_before_fit(use):
    with pytest.raises(ValueError, match=r"No generation is trained yet: call `compile\(\)` and `fit\(\)` first"):
        use(compiled())


@pytest.mark.parametrize(
    "use",
    [lambda h: h.best_generation, lambda h: h.plot("plot.png"), lambda h: h.report("report.html")],
    ids=["best_generation", "plot", "report"],
)
def test_a_history_without_records_says_so_before_fit(use):
    sequence = compiled()
    assert [] == sequence.models == sequence.history.records
    with pytest.raises(ValueError, match=r"recorded. Call `fit` first"):
        use(sequence.history)


# `compile`


class AtLeast(keras.metrics.MeanMetricWrapper):
    """A metric whose `get_config` forgets the threshold."""

    def __init__(self, threshold, name="at_least"):
        super().__init__(lambda y_true, y_pred: keras.ops.cast(y_pred >= threshold, "float32"), name)

    def get_config(self):
        return {"name": self.name}


class AtLeastByDefault(keras.metrics.Metric):
    """A metric without `get_config`, whose argument would silently become its default."""

    def __init__(self, threshold=0.5, name="at_least", **kwargs):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold

    def update_state(self, y_true, y_pred, sample_weight=None):
        pass

    def result(self):
        return self.threshold


class Halving(keras.optimizers.SGD):
    """An optimizer without `get_config` for its own argument."""

    def __init__(self, factor, learning_rate=0.1, **kwargs):
        super().__init__(learning_rate, **kwargs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": [AtLeast(0.7)]}, "`metrics`: .*AtLeast.*cannot be made anew.*Complete its `get_config`"),
        ({"metrics": [AtLeastByDefault(0.7)]}, r"`metrics`: .*AtLeastByDefault.*cannot be made anew.*threshold"),
        ({"optimizer": Halving(0.5)}, "`optimizer`: .*Halving.*cannot be made anew.*Complete its `get_config`"),
    ],
)
def test_compile_refuses_what_cannot_be_made_anew(arguments, message):
    sequence = BornAgainSequence(classifier(), label_weight=0)

    with pytest.raises(ValueError, match=message):
        sequence.compile(**{"optimizer": "adam", "loss": crossentropy(), **arguments})


# `fit`


def test_fit_takes_the_arguments_of_keras_in_the_same_order():
    plain = list(inspect.signature(keras.Model.fit).parameters)
    parameters = inspect.signature(BornAgainSequence.fit).parameters.items()
    ours = [name for name, parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]

    assert plain[: len(ours)] == ours


NO_CALLBACKS = "`callbacks` must be a list of `keras.callbacks.Callback`, or a callable"
NO_TEACHER = "`teacher` must be a `keras.Model`, received: .*of type"


def generator():
    while True:
        yield X, Y


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": None, "y": None}, "`x` is None: there is no data to train on"),
        ({"x": X[:0], "y": Y[:0]}, "`x` holds no examples"),
        ({"x": Batches(X[:0], Y[:0]), "y": None}, "`x` holds no examples"),
        (
            {"x": generator(), "y": None, "steps_per_epoch": 1},
            r"`x` is a generator or an iterator, .*`keras.utils.PyDataset`",
        ),
        (
            {"validation_data": generator(), "validation_steps": 1},
            r"`validation_data` is a generator or an iterator",
        ),
        ({"y": Y + 1}, r"outputs have 3 classes, so labels must lie in \[0, 2\], but `y` holds .* 3 for instance"),
        ({"y": Y - 1}, r"labels must lie in \[0, 2\], but `y` holds .* -1 for instance"),
        ({"y": Y.astype("float32") / 2}, "labels as whole numbers, received `y` of dtype float32"),
        ({"y": np.eye(3)[Y]}, "They look one-hot: use `CategoricalCrossentropy`"),
        ({"epochs": 0}, "`epochs` must be a whole number of at least 1, received: 0"),
        ({"epochs": 1.5}, "`epochs` must be a whole number of at least 1, received: 1.5"),
        ({"patience": 0, "validation_split": 0.5}, "`patience` must be a whole number of at least 1, received: 0"),
        ({"patience": 1}, "`patience` needs 'val_loss': pass `validation_data` or `validation_split`"),
        ({"mode": "largest"}, "`mode` must be 'auto', 'min' or 'max', received: 'largest'"),
        (
            {"validation_data": (X, Y), "monitor": "val_acc"},
            r"`monitor` must be one of \['val_accuracy', 'val_loss'\].*received: 'val_acc'",
        ),
        ({"validation_split": 1.0}, "`validation_split` must lie between 0 and 1, received: 1.0"),
        ({"validation_split": -0.5}, "`validation_split` must lie between 0 and 1, received: -0.5"),
        ({"x": X[:1], "y": Y[:1], "validation_split": 0.5}, "of 1 examples leaves a part empty"),
        ({"x": Batches(X, Y), "y": None, "validation_split": 0.5}, "`validation_split` is for arrays"),
        ({"callbacks": "early_stopping"}, NO_CALLBACKS),
        ({"callbacks": 3}, NO_CALLBACKS),
        ({"callbacks": {"a": 1}}, NO_CALLBACKS),
        ({"callbacks": keras.callbacks.EarlyStopping}, NO_CALLBACKS),
        (
            {"callbacks": lambda generation: [keras.callbacks.EarlyStopping]},
            "Each of `callbacks` must be a `keras.callbacks.Callback`, received: <class '.*EarlyStopping'>",
        ),
        ({"callbacks": ["x"]}, r"Each of `callbacks` must be a `keras.callbacks.Callback`, received: 'x'"),
        ({"teacher": "resnet"}, NO_TEACHER),
        ({"teacher": 3}, NO_TEACHER),
        ({"teacher": classifier}, NO_TEACHER),
    ],
)
def test_fit_refuses_bad_input_before_training(arguments, message):
    sequence = compiled(metrics=["accuracy"])

    error = TypeError if {"callbacks", "teacher"} & set(arguments) else ValueError
    with pytest.raises(error, match=message):
        sequence.fit(**{"x": X, "y": Y, **FIT, **arguments})

    assert [] == sequence.models


def dense(units, inputs=8, **arguments):
    return keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(units, **arguments)])


class Stubborn(keras.Model):
    """A model that cannot be cloned, and that has no weights yet."""

    def __init__(self, units):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, inputs):
        return self.dense(inputs)


def in_order(order):
    models = {"a": classifier(), "b": classifier()}
    return {"model": lambda generation: models[order[generation]], "generations": len(order) - 1}


@pytest.mark.parametrize(
    ("sequence", "fit", "message"),
    [
        (lambda: {}, lambda: {"teacher": Stubborn(CLASSES)}, "`teacher` has no weights yet: it must be a trained"),
        (lambda: {}, lambda: {"teacher": dense(5)}, r"\(None, 5\).*\(None, 3\)"),
        (
            lambda: {"model": lambda generation: dense(CLASSES if generation < 2 else 4)},
            dict,
            r"\(None, 3\).*\(None, 4\)",
        ),
        (lambda: in_order("aa"), dict, "the same model"),
        (lambda: in_order("aba"), dict, "the same model"),
        (lambda: {"model": Stubborn(CLASSES)}, dict, r"`BornAgainSequence` a callable `build\(generation\)`"),
        (
            lambda: {"model": dense(1), "loss": BINARY, "distillation_loss": KnowledgeDistillation()},
            lambda: {"y": Y % 2},
            "activation='sigmoid'",
        ),
        (lambda: {"top_k": 4}, dict, r"top_k=4; the outputs have shape \(None, 3\)"),
        (lambda: {"label_weight": 0}, lambda: {"y": None}, "The data brings no labels"),
        (
            lambda: {"label_weight": [0, 0.5]},
            lambda: {"y": None, "teacher": classifier()},
            "The data brings no labels",
        ),
        (
            lambda: {"label_weight": 0},
            lambda: {"y": None, "teacher": classifier(), "validation_split": 0.2},
            "`validation_data` has no labels.*`validation_split`, pass `y`",
        ),
        (dict, lambda: {"y": {"labels": Y, "soft_targets": np.eye(3)[Y]}}, "`y` brings soft targets, but a sequence"),
        (dict, lambda: {"teacher": dense(3, inputs=5)}, r"`x`, .*float32\(96, 8\), does not fit the model"),
    ],
)
def test_fit_refuses_models_that_do_not_fit_before_training(sequence, fit, message):
    sequence = compiled(**{"generations": 2, **sequence()})

    with pytest.raises(ValueError, match=message):
        sequence.fit(**{"x": X, "y": Y, **FIT, **fit()})

    assert [] == sequence.models


@pytest.mark.parametrize("returned", [None, "model", keras.layers.Dense])
def test_a_callable_that_returns_no_model_is_refused(returned, blobs):
    with pytest.raises(TypeError, match=r"`build\(0\)` must return a `keras.Model`, it returned: "):
        compiled(lambda generation: returned).fit(*blobs, **FIT)


def test_probabilities_where_logits_are_declared_are_refused_before_training(blobs):
    loss = keras.losses.SparseCategoricalCrossentropy()
    declared = KnowledgeDistillation(from_logits=True)
    sequence = compiled(classifier(activation="softmax"), loss=loss, distillation_loss=declared)

    with pytest.raises(ValueError, match=r"contradicts the student.*`KnowledgeDistillation\(\)` without"):
        sequence.fit(*blobs, **FIT)
    assert [] == sequence.models
