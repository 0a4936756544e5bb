"""Models of several outputs in a `Distiller`: dicts and lists of them."""

import keras
import numpy as np
import oracles
import pytest
from helpers.data import CLASSES, make_blobs
from helpers.models import crossentropy
from helpers.tables import cases

import keras_ban
from keras_ban.losses import KnowledgeDistillation

X, Y = make_blobs()


def heads(kind=dict, activation=None, **classes):
    """A model of outputs of these names and numbers of classes."""
    inputs = keras.Input((8,))
    outputs = {name: keras.layers.Dense(n, activation, name=name)(inputs) for name, n in classes.items()}
    return keras.Model(inputs, outputs if kind is dict else list(outputs.values()))


def two(kind=dict, first=CLASSES, second=2):
    return heads(kind, first=first, second=second)


def fit(student, teacher, label_loss=None, label_weight=0.5, **arguments):
    """The logs of a `Distiller` of these models."""
    distiller = keras_ban.Distiller(student=student, teacher=teacher, label_weight=label_weight, **arguments)
    loss = keras.tree.map_structure(lambda _: label_loss or crossentropy(), student.output)
    labels = keras.tree.map_structure(lambda output: Y % output.shape[-1], student.output)
    distiller.compile("sgd", loss)
    return distiller.fit(X, labels, batch_size=96, verbose=0).history


@cases("kind, silent", (dict, "second"), on_one_backend=[(dict, None), (list, None), (list, "second")])
def test_each_output_has_its_own_distillation_loss_or_none(kind, silent):
    student, teacher = two(kind), two(kind)
    names = ("first", "second")
    outputs, targets = (
        [out[name] for name in names] if kind is dict else out
        for out in (student.predict(X, verbose=0), teacher.predict(X, verbose=0))
    )

    def nested(first, second):
        return {"first": first, "second": second} if kind is dict else [first, second]

    second = None if silent else KnowledgeDistillation(temperature=2.0)
    losses = nested(KnowledgeDistillation(temperature=4.0), second)
    distiller = keras_ban.Distiller(student=student, teacher=teacher, distillation_loss=losses)
    distiller.compile(
        keras.optimizers.SGD(0.0),
        nested(crossentropy(), crossentropy()),
        loss_weights=nested(0.5, 2.0),
        metrics=nested(["accuracy"], ["accuracy"]),
    )
    labels = nested(Y, Y % 2)

    logs = distiller.fit(X, labels, batch_size=96, validation_data=(X, labels), verbose=0).history

    expected = 0.5 * oracles.knowledge_distillation(targets[0], outputs[0], 4.0).mean()
    if not silent:
        expected += 2.0 * oracles.knowledge_distillation(targets[1], outputs[1], 2.0).mean()
    np.testing.assert_allclose(logs["distillation_loss"], [expected], rtol=1e-5)
    np.testing.assert_allclose(logs["loss"][0], 0.5 * logs["label_loss"][0] + 0.5 * expected, rtol=1e-5)
    np.testing.assert_allclose(logs["val_loss"], logs["label_loss"], rtol=1e-5)
    assert {"first_accuracy", "second_accuracy", "first_loss", "second_loss"} <= set(logs)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("student", "teacher", "loss"),
    [
        # By name, for a list of outputs; the others' widths may differ.
        (lambda: two(list), lambda: two(list), {"first": KnowledgeDistillation()}),
        (lambda: two(list, 2, 2), lambda: two(list, 5, 2), {"second": KnowledgeDistillation()}),
        # The teacher has an output more, or less.
        (lambda: heads(first=CLASSES), two, None),
        (two, lambda: heads(first=CLASSES), {"first": KnowledgeDistillation()}),
    ],
)
def test_outputs_without_a_distillation_loss_are_not_compared(student, teacher, loss):
    assert np.isfinite(fit(student(), teacher(), distillation_loss=loss)["distillation_loss"][0])


@pytest.mark.one_backend
def test_what_a_teacher_says_beside_the_students_outputs_is_not_looked_at():
    inputs = keras.Input((8,))
    features = keras.layers.Dense(4, name="features")(inputs)
    teacher = keras.Model(inputs, {"features": features, "first": keras.layers.Dense(CLASSES, "softmax")(features)})
    student = heads(activation="softmax", first=CLASSES)

    # Features would be refused: they are no probabilities.
    loss = KnowledgeDistillation(from_logits=False)
    logs = fit(student, teacher, keras.losses.SparseCategoricalCrossentropy(), distillation_loss=loss)

    assert np.isfinite(logs["distillation_loss"][0])


@pytest.mark.one_backend
def test_outputs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="The teacher lacks one of the student's outputs"):
        fit(two(), heads(first=CLASSES))
    with pytest.raises(ValueError, match="must both give dicts of outputs, or neither"):
        fit(two(list), two(dict), label_weight=0)


@keras.saving.register_keras_serializable(package="test_distiller_outputs")
class WithFeatures(keras.Model):
    """Gives its features, too, for which there is no label loss."""

    def __init__(self, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self.hidden = keras.layers.Dense(4, "relu", kernel_initializer=keras.initializers.GlorotUniform(seed))
        self.top = keras.layers.Dense(CLASSES, kernel_initializer=keras.initializers.GlorotUniform(seed + 1))

    def call(self, inputs):
        hidden = self.hidden(inputs)
        return {"logits": self.top(hidden), "hidden": hidden}

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


def with_features(seed, built):
    model = WithFeatures(seed)
    if built:
        model(X[:2])
    return model


@pytest.mark.parametrize("built", [True, False])
def test_an_output_that_the_label_losses_do_not_name_is_not_taken_for_one_of_them(built):
    student, teacher = with_features(0, built), with_features(3, True)
    losses = {"logits": crossentropy()}

    distiller = keras_ban.Distiller(student=student, teacher=teacher)
    distiller.compile("sgd", losses)
    sequence = keras_ban.BornAgainSequence(lambda generation: with_features(generation, built), generations=1)
    sequence.compile("sgd", losses)
    epochs = []
    counting = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: epochs.append(1))
    for fit in (distiller.fit, sequence.fit):
        with pytest.raises(ValueError, match=r"gives the outputs \['(logits', 'hidden|hidden', 'logits)'\].* no label"):
            fit(
                X,
                {"logits": Y},
                callbacks=[counting],
                verbose=0,
            )
    assert [] == epochs

    chosen = {"logits": KnowledgeDistillation(), "hidden": None}
    distiller = keras_ban.Distiller(student=student, teacher=teacher, distillation_loss=chosen)
    distiller.compile(keras.optimizers.SGD(0.0), losses)
    logs = distiller.fit(X, {"logits": Y}, verbose=0).history
    theirs, ours = (model.predict(X, verbose=0)["logits"] for model in (teacher, student))
    expected = oracles.knowledge_distillation(theirs, ours).mean()
    assert logs["distillation_loss"] == [pytest.approx(expected, rel=1e-5)]
