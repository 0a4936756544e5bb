"""Students that have layers of their teacher's, for good: `share_layers`, and a sequence that does it."""

import re

import keras
import numpy as np
import pytest
from helpers.data import CLASSES, make_blobs
from helpers.models import assert_same, crossentropy, values
from helpers.runs import assert_same_run
from helpers.sequences import FIT, compiled
from helpers.training import interrupted_after

from keras_ban import BornAgainSequence, Distiller, reborn, share_layers


def network(width=16, hidden=1, names=("stem", "norm", "head")):
    """The first layer, the statistics after it, and the last; between them `hidden` layers."""
    stem, norm, head = names
    x = inputs = keras.Input((8,))
    x = keras.layers.Dense(16, activation="relu", name=stem)(x)
    x = keras.layers.BatchNormalization(name=norm)(x)
    for _ in range(hidden):
        x = keras.layers.Dense(width, activation="relu")(x)
    x = keras.layers.Dense(16, activation="relu", name="narrowing")(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name=head)(x))


def weights_of(model, *names):
    return [weight for name in names for weight in model.get_layer(name).get_weights()]


@pytest.fixture(scope="module")
def teacher():
    """A network with statistics of its own, for all tests: nothing may change it."""
    model = network()
    model.compile("adam", crossentropy(), run_eagerly=True)
    model.fit(*make_blobs(), **FIT)
    return model


@pytest.mark.parametrize("form", [*(pytest.param(f, marks=pytest.mark.one_backend) for f in (list, tuple)), dict])
def test_named_layers_are_copied_and_frozen_and_the_others_are_not(blobs, teacher, form):
    layers = ["stem", "norm", "head"]
    others = ["first", "second", "last"] if form is dict else layers
    student, before = network(16, 2, others), values(teacher)
    kept = weights_of(student, "narrowing")

    named = dict(zip(others, layers, strict=True)) if form is dict else form(layers)
    assert student is share_layers(student, teacher, named)

    shared = weights_of(teacher, *layers)
    assert_same(shared, weights_of(student, *others))
    assert_same(kept, weights_of(student, "narrowing"))
    assert [False] * 3 == [student.get_layer(name).trainable for name in others]
    assert 2 * 3 == len(student.trainable_weights)
    # Training moves neither weights nor statistics of the shared layers, and nothing of the teacher.
    distiller = Distiller(student=student, teacher=teacher)
    distiller.compile(keras.optimizers.AdamW(0.02, weight_decay=0.1), crossentropy(), run_eagerly=True)
    distiller.fit(*blobs, **FIT)
    assert_same(shared, weights_of(student, *others))
    assert not np.array_equal(kept[0], weights_of(student, "narrowing")[0])
    assert_same(before, values(teacher))
    assert teacher.trainable and all(layer.trainable for layer in teacher.layers)


@pytest.mark.one_backend
def test_a_layer_within_a_nested_model_is_found_with_all_that_lies_in_it():
    def nested():
        inner = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="deep")], name="backbone")
        inputs = keras.Input((8,))
        return keras.Model(inputs, keras.layers.Dense(3, name="head")(inner(inputs)))

    teacher, inner, outer = nested(), nested(), nested()
    share_layers(inner, teacher, ["deep"])
    share_layers(outer, teacher, ["backbone"])

    for student in (inner, outer):
        assert_same(*(m.get_layer("backbone").get_layer("deep").get_weights() for m in (teacher, student)))
        assert 2 == len(student.trainable_weights)


def test_what_a_layer_was_adapted_to_is_shared(blobs):
    x, _ = blobs

    def normalized():
        normalization = keras.layers.Normalization(name="input")
        normalization.build((None, 8))
        return keras.Sequential([keras.Input((8,)), normalization, keras.layers.Dense(3, name="head")])

    teacher, student = normalized(), normalized()
    teacher.get_layer("input").adapt(x)
    share_layers(student, teacher, ["input", "head"])

    assert_same([teacher.predict(x, verbose=0)], [student.predict(x, verbose=0)])


def test_a_students_file_keeps_the_shared_layers_frozen_and_so_does_its_copy(teacher, tmp_path):
    student = share_layers(network(), teacher, ["stem", "norm"])
    student.save(tmp_path / "student.keras")

    for copy in (keras.saving.load_model(tmp_path / "student.keras"), reborn(student)):
        assert_same(weights_of(student, "stem", "norm"), weights_of(copy, "stem", "norm"))
        assert len(student.trainable_weights) == len(copy.trainable_weights)


def unbuilt():
    return keras.Sequential([keras.layers.Dense(16, name="stem")])


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("error", "student", "layers", "message"),
    [
        (ValueError, network, ["stam"], "has no layer named 'stam'. Did you mean one of ['stem']? Its layers with wei"),
        (ValueError, network, {"stem": "haed"}, "The teacher 'functional' has no layer named 'haed'. Did you mean on"),
        # What comes before the refused layer is not touched either.
        (
            ValueError,
            network,
            {"head": "head", "norm": "stem"},
            "student's layer 'norm' has the weights [('gamma', (16",
        ),
        (ValueError, network, {"narrowing": "stem"}, "('kernel', (16, 16)), ('bias', (16,))], the teacher's layer 'st"),
        (ValueError, unbuilt, ["stem"], "The student's layer 'stem' has no weights yet"),
        (TypeError, network, "stem", "`layers` must be a list of layer names, or a dict"),
        (TypeError, network, [], "with at least one name, received: []"),
        (TypeError, network, [0], "received: [0]"),
        (TypeError, network, {"stem": None}, "received: {'stem': None}"),
        (TypeError, lambda: "network", ["stem"], "`student` must be a `keras.Model`, received: 'network'"),
    ],
)
def test_layers_that_cannot_be_shared_are_refused(error, student, layers, message):
    student = student()
    before = values(student) if isinstance(student, keras.Model) else []
    teacher = network()
    teacher.name = "functional"

    with pytest.raises(error, match=re.escape(message)):
        share_layers(student, teacher, layers)

    assert_same(before, values(student) if before else [])
    assert not before or student.get_layer("head").trainable


@pytest.mark.one_backend
def test_a_layer_that_is_the_teachers_own_is_refused():
    teacher = network()
    student = keras.Model(teacher.inputs, keras.layers.Dense(3)(teacher.get_layer("norm").output))

    with pytest.raises(ValueError, match=r"The layers \['stem'\] of the student are the teacher's own"):
        share_layers(student, teacher, ["stem"])

    assert teacher.get_layer("stem").trainable


@pytest.mark.one_backend
def test_a_name_in_two_places_is_refused():
    inner = [keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="deep")]) for _ in range(2)]
    model = keras.Sequential([keras.Input((8,)), *inner])

    with pytest.raises(ValueError, match="has 2 layers named 'deep'"):
        share_layers(reborn(model), model, ["deep"])


# In a sequence


@pytest.mark.parametrize(
    ("options", "run_eagerly"),
    [
        ({"soft_targets": "cached", "generations": 2}, False),
        *(
            pytest.param(options, True, marks=pytest.mark.one_backend)
            for options in [
                {"soft_targets": "online", "distill_ensemble": True},
                {"teach_from": "ensemble", "generations": 2, "label_weight": [1, 0.5]},
            ]
        ),
    ],
)
def test_every_student_has_generation_0s_layers_bit_for_bit(blobs, options, run_eagerly):
    sequence = compiled(network(), shared_layers=["stem", "norm", "head"], run_eagerly=run_eagerly, **options)

    sequence.fit(*blobs, epochs=2, **FIT)

    first, *students = sequence.models
    assert first.trainable_weights == [w for w in first.weights if "moving" not in w.path]
    assert 2 == len(students)
    for student in students:
        assert_same(*(weights_of(model, "stem", "norm", "head") for model in (first, student)))
        assert not np.array_equal(weights_of(first, "narrowing")[0], weights_of(student, "narrowing")[0])
        assert 2 * 2 == len(student.trainable_weights)


def test_cached_students_with_shared_layers_are_online_ones(blobs):
    ways = [compiled(network(), shared_layers=["stem", "norm"], soft_targets=way) for way in ("cached", "online")]
    for sequence in ways:
        sequence.fit(*blobs, epochs=2, **FIT)

    for cached, online in zip(*(sequence.models for sequence in ways), strict=True):
        for one, other in zip(values(cached), values(online), strict=True):
            # Stored outputs come from a compiled pass, those of this step from an eager one: their last bits differ.
            np.testing.assert_allclose(other, one, rtol=0, atol=2e-5)


@pytest.mark.one_backend
def test_students_of_another_architecture_share_layers_of_a_given_teacher(blobs, teacher):
    theirs, own = ("stem", "norm", "head"), ("first", "second", "last")
    shared_layers = dict(zip(own, theirs, strict=True))
    sequence = compiled(lambda generation: network(16, generation + 1, own), 2, shared_layers=shared_layers)

    sequence.fit(*blobs, teacher=teacher, **FIT)

    for student in sequence.models[1:]:
        assert_same(weights_of(teacher, *theirs), weights_of(student, *own))
    assert teacher.get_layer("stem").trainable


@pytest.mark.one_backend
def test_a_run_with_shared_layers_goes_on_to_the_same_end(blobs, tmp_path):
    fit = {**FIT, "epochs": 2}

    def sequence(directory=tmp_path, layers=("stem", "norm")):
        return compiled(network(), 2, directory=directory, shared_layers=list(layers))

    whole, again = sequence(None), sequence()
    whole.fit(*blobs, **fit)
    with interrupted_after(generation=2):
        sequence().fit(*blobs, **fit)
    with pytest.raises(ValueError, match="shared_layers.norm: "):
        sequence(layers=["stem"]).fit(*blobs, **fit)
    again.fit(*blobs, **fit)
    assert_same_run(whole, again)

    loaded = BornAgainSequence.load(tmp_path)
    assert {"stem": "stem", "norm": "norm"} == loaded.shared_layers
    assert [False, False] == [model.get_layer("stem").trainable for model in loaded.models[1:]]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("model", "shared_layers", "message"),
    [
        (network, ["steam"], "The student '.*' has no layer named 'steam'"),
        (
            lambda: lambda number: network(names=("stem", "norm", f"head_{number}")),
            ["head_0"],
            "no layer named 'head_0'",
        ),
        (lambda: keras.Sequential([keras.layers.Dense(3, name="head")]), ["head"], "has no weights yet"),
    ],
)
def test_a_sequence_looks_at_its_layers_before_it_trains(blobs, model, shared_layers, message):
    sequence = compiled(model(), shared_layers=shared_layers)

    with pytest.raises(ValueError, match=message):
        sequence.fit(*blobs, **FIT)

    assert [] == sequence.models
