"""Generations that start from the model's weights, or from those of the generation before, and the soup of them."""

import re
import warnings

import keras
import numpy as np
import pytest
from helpers import runs
from helpers.data import CLASSES, make_blobs
from helpers.models import assert_same, classifier, crossentropy, values
from helpers.runs import assert_same_run, weights
from helpers.sequences import FIT, compiled
from helpers.training import interrupted_after

from keras_ban import BornAgainSequence

X, Y = make_blobs()
HELD_OUT = make_blobs(2)
one_backend = pytest.mark.one_backend


def trained(model=None):
    """A model with weights and statistics of its own."""
    model = classifier(dropout=0.3, batch_norm=True) if model is None else model
    model.compile(keras.optimizers.Adam(0.02), crossentropy(), run_eagerly=True)
    model.fit(X, Y, epochs=2, **FIT)
    return model


class Starts(keras.callbacks.Callback):
    """Notes the weights with which each training starts, and the states of random generators."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def on_train_begin(self, logs=None):
        model = getattr(self.model, "student", self.model)
        known = {id(weight) for weight in model.weights}
        states = [keras.ops.convert_to_numpy(v.value).copy() for v in model.variables if id(v) not in known]
        self.found.append((weights([model]), states))


def fitted(sequence, **options):
    """Train a sequence; return the weights with which each training started."""
    found = []
    sequence.fit(X, Y, epochs=2, callbacks=lambda _: [Starts(found)], **{**FIT, **options})
    return [start for start, _ in found]


# Starts


@pytest.mark.parametrize("choice", [pytest.param("model", marks=one_backend), "previous"])
@pytest.mark.parametrize(
    ("options", "run_eagerly"),
    [
        # With a compiled step that all students share.
        pytest.param({"soft_targets": "cached"}, False, id="cached"),
        pytest.param({"soft_targets": "online", "distill_ensemble": True}, True, marks=one_backend, id="distilled"),
        pytest.param({"teach_from": "ensemble", "label_weight": [1, 0]}, True, marks=one_backend, id="ensemble"),
    ],
)
def test_each_generation_starts_with_the_weights_of_the_model_or_of_the_one_before(choice, options, run_eagerly):
    model = trained()
    before = values(model)
    sequence = compiled(model, generations=2, initial_weights=choice, run_eagerly=run_eagerly, **options)

    starts = fitted(sequence)

    assert 3 + options.get("distill_ensemble", False) == len(starts)
    ends = [weights([each]) for each in sequence.models]
    for number, start in enumerate(starts):
        assert_same(weights([model]) if choice == "model" or number == 0 else ends[number - 1], start)
        assert not np.array_equal(start[0], ends[number][0])
    assert_same(before, values(model))


@pytest.mark.parametrize("choice", ["model", "previous"])
def test_with_learning_rate_0_all_generations_are_the_model(choice):
    model = trained(classifier())
    sequence = compiled(model, optimizer=keras.optimizers.SGD(0.0), generations=2, initial_weights=choice)

    fitted(sequence)

    for each in sequence.models:
        assert_same(weights([model]), weights([each]))


@one_backend
def test_random_generators_are_new_in_each_generation():
    found = []
    sequence = compiled(trained(), generations=2, initial_weights="model")

    sequence.fit(X, Y, epochs=1, callbacks=lambda _: [Starts(found)], **FIT)

    states = {str(states) for _, states in found}
    assert found[0][1] and 3 == len(states)


@one_backend
@pytest.mark.parametrize("choice", ["fresh", "model", "previous"])
def test_frozen_layers_stay_as_they_are(choice):
    model = trained()
    model.layers[0].trainable = False
    model.compile()
    frozen = model.layers[0].get_weights()
    sequence = compiled(model, generations=2, initial_weights=choice)

    fitted(sequence)

    for each in sequence.models:
        assert_same(frozen, each.layers[0].get_weights())
        assert [False, True] == [each.layers[0].trainable, each.layers[-1].trainable]
        assert not np.array_equal(model.layers[-1].get_weights()[0], each.layers[-1].get_weights()[0])


@one_backend
def test_shared_layers_are_those_of_generation_0():
    names = [f"layer{number}" for number in range(2)]
    layers = [keras.layers.Dense(8, name=names[0]), keras.layers.Dense(CLASSES, name=names[1])]
    model = trained(keras.Sequential([keras.Input((8,)), *layers]))
    sequence = compiled(model, generations=2, initial_weights="model", shared_layers=names[:1])

    starts = fitted(sequence)

    first = weights(sequence.models[:1])
    for start in starts[1:]:
        assert_same([*first[:2], *weights([model])[2:]], start)


@one_backend
@pytest.mark.parametrize("choice", ["model", "previous"])
def test_controls_start_as_generation_0(choice):
    model = trained()
    controls = ("longer", "independent")
    sequence = compiled(model, generations=1, initial_weights=choice, controls=controls)

    starts = fitted(sequence)

    assert 4 == len(starts)
    for number in (0, 2, 3):
        assert_same(weights([model]), starts[number])


@one_backend
@pytest.mark.parametrize("choice", ["model", "previous"])
def test_a_function_gives_the_weights_of_the_model(choice):
    made = [trained() for _ in range(3)]
    sequence = compiled(lambda generation: made[generation], generations=2, initial_weights=choice)
    expected = [weights([model]) for model in made]

    starts = fitted(sequence)

    if choice == "previous":
        expected[1:] = [weights([model]) for model in sequence.models[:2]]
    for one, other in zip(expected, starts, strict=True):
        assert_same(one, other)


@one_backend
@pytest.mark.parametrize("choice", ["model", "previous"])
def test_generation_1_starts_with_the_weights_of_a_given_teacher_or_of_the_model(choice):
    model, teacher = trained(), trained()
    before = values(teacher)
    sequence = compiled(model, generations=2, initial_weights=choice)

    starts = fitted(sequence, teacher=teacher)

    assert_same(weights([model if choice == "model" else teacher]), starts[0])
    assert_same(weights([model if choice == "model" else sequence.models[1]]), starts[1])
    assert_same(before, values(teacher))


# Refusals


def other_width(generation):
    return classifier(units=16 + generation)


def other_type(generation):
    layer = keras.layers.Dense(8) if generation < 2 else keras.layers.EinsumDense("ij,jk->ik", 8, bias_axes="k")
    return keras.Sequential([keras.Input((8,)), layer, keras.layers.Dense(CLASSES)])


def unbuilt(generation=None):
    return keras.Sequential([keras.layers.Dense(CLASSES)])


@one_backend
@pytest.mark.parametrize(
    ("choice", "model", "teacher", "message"),
    [
        ("other", classifier, None, "`initial_weights` must be 'fresh', 'model' or 'previous', received: 'other'"),
        ("model", unbuilt, None, "`initial_weights='model'` needs models with weights, but `model` has none yet"),
        ("previous", unbuilt, None, "but `model` has none yet: start the model with a `keras.Input`"),
        ("model", lambda: unbuilt, None, "but `build(0)` has none yet"),
        (
            "previous",
            lambda: other_width,
            None,
            "of `build(0)` to `build(1)`, so both need the same architecture. They ",
        ),
        ("previous", lambda: other_type, None, "('Dense', [(8, 8), (8,)]) and ('EinsumDense', [(8, 8), (8,)]) as la"),
        ("previous", classifier, lambda: classifier(units=9), "the weights of `teacher` to generation 1, so both need"),
        ("previous", classifier, lambda: classifier(batch_norm=True), "of `teacher` to generation 1, so both need the"),
    ],
)
def test_what_has_no_weights_to_start_from_is_refused_before_training(choice, model, teacher, message):
    found = []
    with pytest.raises(ValueError, match=re.escape(message)):
        sequence = compiled(model(), generations=2, initial_weights=choice)
        teacher = None if teacher is None else teacher()
        sequence.fit(X, Y, callbacks=lambda _: [Starts(found)], teacher=teacher, **FIT)

    assert [] == found


# Trained models


def loaded(tmp_path):
    """A model from a file of weights: it has no optimizer."""
    trained().save_weights(tmp_path / "model.weights.h5")
    model = classifier(dropout=0.3, batch_norm=True)
    model.load_weights(tmp_path / "model.weights.h5")
    return model


def with_statistics(tmp_path):
    model = keras.Sequential([keras.Input((8,)), keras.layers.BatchNormalization(), keras.layers.Dense(3)])
    model(X, training=True)
    return model


@one_backend
@pytest.mark.parametrize(
    "make", [lambda _: trained(), lambda _: trained(classifier(use_bias=False)), loaded, with_statistics]
)
def test_a_trained_model_is_warned_of_once(make, tmp_path):
    model = make(tmp_path)
    sequence = compiled(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sequence.fit(X, Y, **FIT)
        sequence.fit(X, Y, **FIT)
    (found,) = [each for each in caught if each.category is UserWarning]
    assert re.search("is trained, but .* fresh .*='model'.*='previous'.*teacher=model.*='fresh'", str(found.message))
    assert __file__ == found.filename

    # Now a warning would be an error.
    compiled(model, initial_weights="fresh").fit(X, Y, **FIT)
    compiled(model).fit(X, Y, teacher=model, **FIT)


def frozen_backbone():
    backbone = trained(keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.BatchNormalization()]))
    backbone.trainable = False
    return keras.Sequential([keras.Input((8,)), backbone, keras.layers.Dense(CLASSES)])


def adapted():
    normalization = keras.layers.Normalization()
    normalization.adapt(X)
    return keras.Sequential([keras.Input((8,)), normalization, keras.layers.Dense(CLASSES)])


def compiled_only():
    model = classifier()
    model.compile("adam", crossentropy())
    return model


def of_layers(*layers):
    return keras.Sequential([keras.Input((8,)), keras.layers.Reshape((4, 2)), *layers, keras.layers.Dense(CLASSES)])


@one_backend
@pytest.mark.parametrize(
    "make",
    [
        classifier,
        unbuilt,
        frozen_backbone,
        adapted,
        compiled_only,
        # Its bias is neither all zeros nor all ones.
        lambda: of_layers(keras.layers.LSTM(3)),
        lambda: of_layers(keras.layers.GRU(3)),
        lambda: of_layers(keras.layers.Flatten(), keras.layers.Dense(4, bias_initializer="random_normal")),
        lambda: of_layers(keras.layers.SpectralNormalization(keras.layers.Conv1D(2, 2)), keras.layers.Flatten()),
    ],
)
def test_there_is_no_false_alarm(make):
    compiled(make()).fit(X, Y, **FIT)


# Directories


@pytest.mark.parametrize("choice", ["model", pytest.param("previous", marks=one_backend)])
def test_a_run_resumes_bit_for_bit(choice, tmp_path):
    model = trained()
    options = {"model": model, "initial_weights": choice}
    whole = runs.run(tmp_path / "whole", (X, Y), fitting={"epochs": 2}, **options)
    with interrupted_after(1):
        runs.run(tmp_path / "run", (X, Y), fitting={"epochs": 2}, **options)

    resumed = runs.run(tmp_path / "run", (X, Y), fitting={"epochs": 2}, **options)

    assert_same_run(whole, resumed)


@one_backend
@pytest.mark.parametrize("choice", ["model", "previous"])
def test_a_run_is_not_continued_from_other_weights(choice, tmp_path):
    model = trained()
    runs.run(tmp_path / "run", (X, Y), model=model, initial_weights=choice)
    before = runs.content(tmp_path / "run")

    model.layers[-1].bias.assign(model.layers[-1].bias + 1)
    with pytest.raises(ValueError, match=r"holds a run with other settings:\n- model.0.starting_weights: .*\nCont"):
        runs.run(tmp_path / "run", (X, Y), model=model, initial_weights=choice)
    with pytest.raises(ValueError, match=f'- initial_weights: "{choice}" in the directory, null now'):
        runs.run(tmp_path / "run", (X, Y), model=model, initial_weights="fresh")

    assert before == runs.content(tmp_path / "run")


@one_backend
@pytest.mark.parametrize("choice", ["model", "previous"])
def test_a_run_goes_on_to_more_generations(choice, tmp_path):
    model = trained(classifier())
    build = {"model": lambda _: keras.models.clone_model(model), "previous": lambda _: classifier()}[choice]
    whole = runs.run(tmp_path / "whole", (X, Y), model=build, initial_weights=choice, generations=2)
    runs.run(tmp_path / "run", (X, Y), model=build, initial_weights=choice, generations=1)

    longer = runs.run(tmp_path / "run", (X, Y), model=build, initial_weights=choice, generations=2)

    assert_same_run(whole, longer)


@one_backend
def test_a_run_with_fresh_weights_does_not_mention_them(tmp_path):
    runs.run(tmp_path / "run", (X, Y))

    text = (tmp_path / "run" / "run.json").read_text()
    assert "initial_weights" not in text and "starting_weights" not in text
    assert "fresh" == BornAgainSequence.load(tmp_path / "run").initial_weights


@one_backend
def test_a_run_that_is_loaded_has_its_soup_but_not_the_weights_to_go_on(tmp_path):
    model = trained(classifier())
    sequence = runs.run(tmp_path / "run", (X, Y), model=model, initial_weights="model")

    restored = BornAgainSequence.load(tmp_path / "run")

    assert_same(weights([sequence.soup()]), weights([restored.soup()]))
    greedy = restored.soup("greedy", validation_data=HELD_OUT)
    assert_same(weights([sequence.soup("greedy", validation_data=HELD_OUT)]), weights([greedy]))
    with pytest.raises(ValueError, match=re.escape("the last `fit` has none to offer: pass `validation_data`")):
        restored.soup("greedy")
    with pytest.raises(ValueError, match=re.escape("begun with the weights of `model` (initial_weights='model'), whi")):
        restored.fit(X, Y)


# Soups


def mean(models):
    return [np.mean([np.float64(part) for part in parts], 0) for parts in zip(*map(weights_of, models), strict=True)]


def weights_of(model):
    return weights([model])


def assert_close(expected, actual, **tolerance):
    for one, other in zip(expected, actual, strict=True):
        np.testing.assert_allclose(other, one, **{"rtol": 1e-6, "atol": 1e-7, **tolerance})


@pytest.mark.parametrize("choice", [pytest.param("model", marks=one_backend), "previous"])
def test_a_uniform_soup_has_the_mean_of_the_weights(choice):
    sequence = compiled(trained(classifier()), generations=2, initial_weights=choice, distill_ensemble=True)
    fitted(sequence)
    before = [values(model) for model in sequence.models]

    soup = sequence.soup()

    assert_close(mean(sequence.models[:3]), weights_of(soup))
    assert 4 == len(sequence.models) and not np.allclose(mean(sequence.models)[0], weights_of(soup)[0], atol=1e-7)
    # The weights are the model's only ones.
    logits = np.maximum(X @ weights_of(soup)[0] + weights_of(soup)[1], 0) @ weights_of(soup)[2] + weights_of(soup)[3]
    assert_close([logits], [soup.predict(X, verbose=0)], rtol=1e-4, atol=1e-5)
    assert np.isfinite(soup.evaluate(X, Y, verbose=0))
    for one, model in zip(before, sequence.models, strict=True):
        assert_same(one, values(model))


def statistics_of(kernel, bias, sizes=(96,)):
    """The moments of the hidden units on the training data, in NumPy: averages over batches."""
    hidden = np.maximum(np.float64(X) @ kernel + bias, 0)
    batches = np.split(hidden, np.cumsum(sizes)[:-1])
    return [np.average([f(batch, 0) for batch in batches], 0, weights=sizes) for f in (np.mean, np.var)]


@pytest.mark.parametrize(
    "sizes", [(96,), pytest.param((40, 40, 16), marks=one_backend), pytest.param("dataset", marks=one_backend)]
)
def test_statistics_of_a_soup_are_those_of_the_training_data(sizes):
    sequence = compiled(trained(), generations=1, initial_weights="model")
    if sizes == "dataset":
        from helpers.data import Batches

        sizes = (40, 40, 16)
        sequence.fit(Batches(X, Y, 40), epochs=2, verbose=0)
    else:
        fitted(sequence, batch_size=sizes[0])

    soup = sequence.soup()

    norm = next(layer for layer in soup.layers if isinstance(layer, keras.layers.BatchNormalization))
    momentum = keras.layers.BatchNormalization().momentum
    expected = statistics_of(*mean(sequence.models)[:2], sizes)
    assert_close(expected, norm.get_weights()[2:], rtol=1e-4, atol=1e-5)
    assert momentum == norm.momentum
    is_average = [
        np.allclose(one, other, 1e-4) for one, other in zip(mean(sequence.models)[4:6], expected, strict=True)
    ]
    assert [False, False] == is_average
    assert_close(mean(sequence.models)[:4], weights_of(soup)[:4])


@one_backend
def test_statistics_are_the_same_each_time_and_random_numbers_go_on_as_before():
    layers = [keras.layers.Dropout(0.5), keras.layers.BatchNormalization(), keras.layers.Dense(CLASSES)]
    sequence = compiled(trained(keras.Sequential([keras.Input((8,)), *layers])), initial_weights="model")
    fitted(sequence)
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)

    one, other = sequence.soup(), sequence.soup()

    assert_same(weights_of(one), weights_of(other))
    assert expected == np.random.random()


def by_hand(sequence, value_of, larger_is_better):
    """The members of a greedy soup, by the algorithm of the paper."""
    sign = 1 if larger_is_better else -1
    models = sequence.models
    order = sorted(range(len(models)), key=lambda i: -sign * value_of([models[i]]))
    chosen = order[:1]
    for i in order[1:]:
        if sign * value_of([models[j] for j in [*chosen, i]]) >= sign * value_of([models[j] for j in chosen]):
            chosen.append(i)
    return chosen


@one_backend
def test_a_greedy_soup_is_that_of_a_loop_by_hand():
    cases = [("val_loss", 1.0, 1), ("val_accuracy", 0.3, 0.5), ("val_accuracy", 2.0, 0.5)]

    sizes = [greedy_soup_as_by_hand(*case) for case in cases]

    # Of four students and generation 0. The backends draw other numbers, so not each case is about a part of them.
    assert any(1 < size < 5 for size in sizes), sizes


def greedy_soup_as_by_hand(monitor, rate, label_weight):
    """Compare a greedy soup with a loop over its members. Return how many were chosen."""
    options = {"metrics": ["accuracy"], "initial_weights": "model", "label_weight": label_weight}
    sequence = compiled(trained(classifier()), 4, keras.optimizers.SGD(rate), **options)
    fitted(sequence, batch_size=32, validation_data=HELD_OUT, monitor=monitor)

    def value_of(models):
        probe = classifier()
        probe.set_weights(mean(models))
        logits = probe.predict(HELD_OUT[0], verbose=0).astype("float64")
        if monitor == "val_accuracy":
            return np.mean(logits.argmax(-1) == HELD_OUT[1])
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        return -np.mean(logits[np.arange(96), HELD_OUT[1]])

    soup = sequence.soup("greedy")

    chosen = by_hand(sequence, value_of, monitor == "val_accuracy")
    assert_close(mean([sequence.models[i] for i in chosen]), weights_of(soup))
    assert_same(weights_of(soup), weights_of(sequence.soup("greedy", validation_data=HELD_OUT)))
    assert value_of([soup]) == pytest.approx(
        soup.evaluate(*HELD_OUT, verbose=0, return_dict=True)[monitor[4:]], rel=1e-5
    )
    return len(chosen)


@one_backend
def test_a_greedy_soup_leaves_out_what_does_harm():
    sequence = compiled(trained(), generations=2, initial_weights="model")
    fitted(sequence, validation_data=HELD_OUT)
    for model in sequence.models[1:]:
        model.layers[-1].kernel.assign(-5 * model.layers[-1].kernel)

    soup = sequence.soup("greedy")

    # Of one member, the statistics are its own.
    assert_same(weights(sequence.models[:1]), weights_of(soup))


@one_backend
@pytest.mark.parametrize(("choice", "members"), [("model", slice(1, None)), ("previous", slice(None))])
def test_a_given_teacher_is_a_member_only_if_generation_1_started_from_it(choice, members):
    sequence = compiled(trained(classifier()), generations=2, initial_weights=choice)
    fitted(sequence, teacher=trained(classifier()))

    assert_close(mean(sequence.models[members]), weights_of(sequence.soup()))


@one_backend
def test_a_soup_of_a_functions_models_needs_equal_weights():
    made = trained(classifier())

    def copy(_):
        model = classifier()
        model.set_weights(made.get_weights())
        return model

    equal, different = (compiled(f, initial_weights="model") for f in (copy, lambda _: classifier()))
    for sequence in (equal, different):
        fitted(sequence)

    assert_close(mean(equal.models), weights_of(equal.soup()))
    with pytest.raises(ValueError, match="returned other weights for each generation, so their average is useless"):
        different.soup()


@one_backend
@pytest.mark.parametrize(
    ("choice", "arguments", "message"),
    [
        ("fresh", {}, "Generations with fresh weights cannot be averaged to a soup"),
        ("model", {"how": "best"}, "`how` must be 'uniform' or 'greedy', received: 'best'"),
        ("model", {"validation_data": HELD_OUT}, "`validation_data` chooses the members of `how='greedy'`"),
        ("model", {"how": "greedy"}, "and the last `fit` has none to offer: pass `validation_data`, or use `how="),
        ("model", {"how": "greedy", "validation_data": (X[:5],)}, "`validation_data` has no labels"),
    ],
)
def test_what_makes_no_soup_is_refused(choice, arguments, message):
    sequence = compiled(classifier(), initial_weights=choice)
    with pytest.raises(ValueError, match="No generation is trained yet"):
        sequence.soup(**arguments)
    fitted(sequence)

    with pytest.raises(ValueError, match=re.escape(message)):
        sequence.soup(**arguments)


@one_backend
def test_a_loaded_run_with_statistics_says_what_to_do_and_that_helps(tmp_path):
    options = {"model": trained(), "initial_weights": "previous"}
    expected = weights_of(runs.run(tmp_path / "run", (X, Y), **options).soup())

    with pytest.raises(ValueError, match=r"The statistics of 'batch_norm.*' are those of one model.* call `fit`, whi"):
        BornAgainSequence.load(tmp_path / "run").soup()

    assert_same(expected, weights_of(runs.run(tmp_path / "run", (X, Y), **options).soup()))
