"""Whatever comes in: it trains and every number is finite, or an error names the argument, before anything is trained.

Hypothesis draws the input: a few examples each time, always the same ones, and thousands in the slow tests on torch.
The other backends get fewer, because most bad input is refused before the backend sees it.

What is not asked for: NaN in the inputs, or in labels that a loss of the user's own reads, may be meant (there are
layers and losses for them), and inputs are not read for a check. There Keras trains to NaN, and so does a `Distiller`;
a sequence ends the generation with a `FloatingPointError` that says to look at the data.
"""

import inspect
import math
import pathlib
import re
import tempfile

import keras
import numpy as np
import pytest
from helpers.models import assert_same, crossentropy, values
from helpers.tables import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_ban
from keras_ban import losses
from keras_ban._src.data import fingerprints

pytestmark = pytest.mark.filterwarnings("ignore")  # of weights that are 0, of data that look like probabilities
EXAMPLES, INPUTS, CLASSES = 6, 4, 3
REFUSED = (ValueError, TypeError)


def hypothesis(examples):
    """How many examples of a property; the few are the same ones each time."""
    few = examples is not None and examples < 500
    options = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    return settings(max_examples=examples, derandomize=few, **options)


def often(few, many):
    """The numbers of examples: `few`, and `many` in a slow test. On JAX and TensorFlow, which take longer, fewer."""
    if keras.config.backend() != "torch":
        few, many = min(few, 12), many // 10
    return pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.slow)])


def model(classes=CLASSES, inputs=INPUTS):
    return keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(classes, name="out")])


STUDENT, TEACHER = model(), model()
START = STUDENT.get_weights()
rng = np.random.default_rng(0)
X = rng.standard_normal((EXAMPLES, INPUTS)).astype("float32")
Y = np.arange(EXAMPLES) % CLASSES
ONE_HOT = np.eye(CLASSES, dtype="float32")[Y]


# --- Constructors: one argument is anything, the others are right.

# No path leads out of the folder.
NAMES = st.characters(exclude_characters="/.")
SINGLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(NAMES, max_size=5),
    st.binary(max_size=3),
    st.fractions(),
    st.decimals(),
    st.sampled_from([10**400, -(10**400), 2**31, 2**32, 2**64, 1e-320, np.float32("nan"), np.int64(1), np.bool_(True)]),
    st.sampled_from(["softmax", "sigmoid", "probabilities", "mean", "none", "auto", "last", "mse", "out", "float16"]),
    st.sampled_from([object(), ..., int, keras.Model, len, math, pathlib.Path("a\0b"), range(2), slice(1)]),
    st.sampled_from([lambda: 1, lambda step: None, lambda step: "a", lambda step: 1 / 0, lambda step: np.ones(2)]),
    st.sampled_from([np.array(0.5), np.array([]), np.ones(2), np.array(["a", "b"]), np.array([None, 1], dtype=object)]),
    st.sampled_from(
        [STUDENT, TEACHER, keras.layers.Dense(2), keras.losses.MeanSquaredError(), keras.metrics.Accuracy()]
    ),
    st.just(losses.KnowledgeDistillation()),
    st.builds(lambda: keras.Sequential([keras.layers.Dense(CLASSES)])),
    st.builds(lambda: keras.ops.convert_to_tensor([0.5, 0.5])),
)
ANYTHING = st.one_of(
    SINGLE,
    st.lists(SINGLE, max_size=3),
    st.tuples(SINGLE, SINGLE),
    st.dictionaries(st.text(NAMES, max_size=3), SINGLE, max_size=2),
)
MAKERS = {
    losses.KnowledgeDistillation: {},
    losses.ConfidenceWeighted: {},
    losses.DecoupledKnowledgeDistillation: {},
    losses.DIST: {},
    losses.PermutedDarkKnowledge: {},
    keras_ban.FeatureMatching: {"layers": ["out"], "loss": "mse", "weight": 1.0},
    keras_ban.EnsembleModel: {"members": [STUDENT, TEACHER]},
    keras_ban.Distiller: {"student": STUDENT, "teacher": TEACHER},
    keras_ban.BornAgainSequence: {"model": STUDENT, "generations": 1},
    keras_ban.SoftTargets.from_teacher: {"teacher": TEACHER, "x": X, "verbose": 0},
    keras_ban.SoftTargets.load: {"path": "there is no such file"},
    keras_ban.BornAgainSequence.load: {"directory": "there is no such folder"},
    keras_ban.gradient_decomposition: {"student": STUDENT, "teacher": TEACHER, "x": X, "y": Y},
    keras_ban.reborn: {"model": STUDENT},
    keras_ban.share_layers: {"student": model(), "teacher": TEACHER, "layers": ["out"]},
}
ARGUMENTS = [
    (maker, argument)
    for maker in MAKERS
    for argument in inspect.signature(maker).parameters
    if argument not in ("verbose", "custom_objects", "args", "kwargs")
]


@pytest.mark.one_backend
@often(250, 20000)
def test_what_a_constructor_is_given_is_taken_or_refused_by_name(examples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Some texts are taken as paths.

    @hypothesis(examples)
    @given(st.sampled_from(ARGUMENTS), ANYTHING)
    def check(which, value):
        maker, argument = which
        try:
            maker(**{**MAKERS[maker], argument: value})
        except FileNotFoundError as error:
            assert maker.__name__ == "load", error
        except REFUSED as error:
            assert argument in str(error), f"{maker.__qualname__}({argument}={value!r}): {error!r}"

    check()


# What the search found, so that it need not be found again.
FOUND = [
    (losses.KnowledgeDistillation, "temperature", 10**400),
    (losses.KnowledgeDistillation, "temperature", lambda step: None),
    (losses.KnowledgeDistillation, "temperature", lambda step: 1 / 0),
    (losses.KnowledgeDistillation, "from_logits", "no"),
    (losses.KnowledgeDistillation, "standardize", "no"),
    (losses.KnowledgeDistillation, "activation", np.array(["softmax", "a"])),
    (losses.KnowledgeDistillation, "reduction", []),
    (losses.KnowledgeDistillation, "name", np.ones(2)),
    (losses.ConfidenceWeighted, "ignore_class", "none"),
    (losses.ConfidenceWeighted, "ignore_class", True),
    (losses.DIST, "inter_class_weight", 10**400),
    (losses.PermutedDarkKnowledge, "seed", 2**32),
    (losses.PermutedDarkKnowledge, "seed", -1),
    (keras_ban.FeatureMatching, "weight", 10**400),
    (keras_ban.EnsembleModel, "weights", 0.5),
    (keras_ban.EnsembleModel, "weights", b"ab"),
    (keras_ban.EnsembleModel, "average", np.ones(2)),
    (keras_ban.EnsembleModel, "from_logits", "no"),
    (keras_ban.Distiller, "label_weight", lambda step: "a"),
    (keras_ban.Distiller, "distillation_loss", [losses.KnowledgeDistillation()] * 2),
    (keras_ban.BornAgainSequence, "label_weight", lambda: 1),
    (keras_ban.BornAgainSequence, "label_weight", keras.optimizers.schedules.ExponentialDecay(50.0, 1, 0.9)),
    (keras_ban.BornAgainSequence, "soft_targets", np.array(["auto", "a"])),
    (keras_ban.BornAgainSequence, "directory", "a\0b"),
    (keras_ban.BornAgainSequence, "directory", ""),
    (keras_ban.BornAgainSequence, "directory", "\ud800"),
    (keras_ban.BornAgainSequence, "keep_soft_targets", np.ones(2)),
    (keras_ban.SoftTargets.from_teacher, "x", 3),
    (keras_ban.SoftTargets.from_teacher, "x", range(2)),
    (keras_ban.SoftTargets.from_teacher, "x", np.array([None, 1], dtype=object)),
    (keras_ban.SoftTargets.from_teacher, "x", np.ones((6, 7))),
    (keras_ban.SoftTargets.from_teacher, "path", 3),
    (keras_ban.SoftTargets.from_teacher, "path", "\ud800"),
    (keras_ban.SoftTargets.from_teacher, "from_logits", "no"),
    (keras_ban.SoftTargets.load, "path", None),
    (keras_ban.BornAgainSequence.load, "directory", None),
    (keras_ban.gradient_decomposition, "x", None),
    (keras_ban.gradient_decomposition, "y", np.array(["a"])),
    (keras_ban.gradient_decomposition, "batch_size", "a"),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("maker", "argument", "value"), FOUND)
def test_what_was_once_taken_or_refused_without_a_name_is_refused_by_name(maker, argument, value):
    with pytest.raises(REFUSED, match=f"`{argument}`"):
        maker(**{**MAKERS[maker], argument: value})


@pytest.mark.one_backend
def test_weights_whose_sum_no_float_holds_are_divided_by_it_all_the_same():
    ensemble = keras_ban.EnsembleModel([STUDENT, TEACHER], weights=[1e308, 1e308])

    assert [0.5, 0.5] == ensemble.member_weights


# --- Training: of the data and the arguments of `fit` one is anything, the others are right.

DTYPES = ["float16", "float32", "float64", "int8", "int64", "uint8", "uint64", "bool", "complex64"]
DTYPES += ["str", "object", "datetime64[s]"]
SHAPES = [(), (0,), (1,), (4,), (6,), (6, 1), (6, 3), (6, 4), (6, 5), (4, 4), (0, 4), (12, 4), (6, 4, 1), (6, 0)]


@st.composite
def arrays(draw, right):
    """The right array, or one of another shape or dtype, with NaN or inf here and there, in whatever holds arrays."""
    array = right if draw(st.booleans()) else np.resize(right, draw(st.sampled_from(SHAPES)))
    dtype = draw(st.one_of(st.just(array.dtype), st.sampled_from(DTYPES)))
    array = array.astype("int64" if dtype == "datetime64[s]" else array.dtype).astype(dtype)
    poison = draw(st.sampled_from([None, None, np.nan, np.inf, -np.inf]))
    if poison is not None and array.size > 0 and array.dtype.kind in "fO":
        array.flat[draw(st.integers(0, array.size - 1))] = poison
    container = draw(st.sampled_from(CONTAINERS))
    of_numbers = container not in (tensor, of_another_framework) or (array.dtype.kind in "biuf" and dtype != "uint64")
    return container(np.asarray(array)) if of_numbers and (container is not list or array.ndim) else array


def tensor(array):
    return keras.ops.convert_to_tensor(array)


def of_another_framework(array):
    """A torch tensor; where torch itself is the backend, a JAX array."""
    if keras.config.backend() == "torch":
        return pytest.importorskip("jax.numpy").asarray(array)
    return pytest.importorskip("torch").from_numpy(array.copy())


CONTAINERS = [lambda array: array] * 6
CONTAINERS += [tensor, of_another_framework, list, np.ndarray.tolist]
CONTAINERS += [lambda array: [array], lambda array: {"a": array}, lambda array: [array, None]]
COUNTS = st.one_of(st.integers(-1, 8), SINGLE)
DATA = {
    "x": arrays(X),
    "y": st.one_of(
        arrays(Y),
        arrays(ONE_HOT),
        st.builds(lambda y, t: {"labels": y, "soft_targets": t}, arrays(Y), arrays(5 * ONE_HOT)),
        st.builds(lambda y: y - 1, st.just(Y)),
        st.builds(lambda y: y + 1, st.just(Y)),
        st.just(0 * Y),
    ),
    "sample_weight": st.one_of(arrays(np.ones(EXAMPLES, "float32")), st.just(np.zeros(EXAMPLES))),
    "class_weight": st.one_of(SINGLE, st.dictionaries(st.integers(-1, 3), SINGLE, max_size=3)),
    "validation_data": st.one_of(
        SINGLE, st.tuples(arrays(X), st.just(Y)), st.tuples(st.just(X), arrays(Y)), st.tuples(st.just(X)), arrays(X)
    ),
    "validation_split": SINGLE,
    "batch_size": COUNTS,
    "epochs": st.one_of(st.integers(-1, 2), SINGLE.filter(lambda value: not isinstance(value, int))),
    "callbacks": ANYTHING.filter(lambda value: not callable(value)),
}
BAD = st.sampled_from(sorted(DATA)).flatmap(lambda name: st.tuples(st.just(name), DATA[name]))
# How messages speak of an argument, where that is not its name.
CALLED = {"y": ("`y", "oft targets", "eacher"), "x": ("`x", "x="), "sample_weight": ("sample_weight", "weights")}


def assert_named(name, error):
    assert any(word in str(error) for word in CALLED.get(name, (name,))), error


def assert_finite(logs):
    assert all(np.isfinite(values).all() for values in logs.values()), logs


FOUND_IN_DATA = [
    ("sample_weight", np.array([1, 1, np.nan, 1, 1, 1], "float32")),
    ("sample_weight", np.ones((EXAMPLES, 5))),
    ("sample_weight", np.ones(EXAMPLES).astype(str)),
    ("sample_weight", np.full(EXAMPLES, 1e100)),
    ("class_weight", {0: math.nan}),
    ("class_weight", {0: 10**300}),
    ("sample_weight", np.ones((EXAMPLES, 0))),
    ("class_weight", "balanced"),
    ("y", {"labels": Y, "soft_targets": np.where(np.arange(CLASSES) == 1, np.nan, ONE_HOT)}),
    ("y", {"labels": Y, "soft_targets": ONE_HOT.astype(str)}),
    ("y", Y.astype(str)),
    ("x", X.astype(object)),
    ("x", np.ones((EXAMPLES, 7), "float32")),
    ("x", keras.KerasTensor((EXAMPLES, INPUTS))),
    ("x", keras.ops.convert_to_tensor(0.5)),
    ("batch_size", 10**30),
    ("epochs", None),
    ("callbacks", [None]),
    ("validation_data", X),
    ("validation_data", (X,)),
    ("validation_data", (X, Y + 5)),
    ("validation_data", (X, None)),
    ("validation_split", "a"),
]


@cases("name, value", FOUND_IN_DATA[0], on_one_backend=FOUND_IN_DATA[1:])
def test_what_training_once_stumbled_over_is_refused_by_name(name, value):
    distiller = keras_ban.Distiller(student=STUDENT, teacher=TEACHER)
    distiller.compile("sgd", crossentropy(), run_eagerly=True)
    with pytest.raises(REFUSED) as refused:
        distiller.fit(**{"x": X, "y": Y, "verbose": 0, name: value})

    assert_named(name, refused.value)


@pytest.mark.one_backend
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("loss", ["mse", keras.losses.categorical_crossentropy, keras.losses.MeanSquaredError()])
def test_labels_that_are_not_finite_are_refused_where_the_loss_is_one_of_keras(value, loss):
    distiller = keras_ban.Distiller(student=STUDENT, teacher=TEACHER)
    distiller.compile("sgd", loss, run_eagerly=True)
    with pytest.raises(ValueError, match="`y` holds NaN or inf in 6 places, the first at index"):
        distiller.fit(X, np.where(ONE_HOT == 1, value, ONE_HOT), verbose=0)


@often(40, 5000)
def test_a_distiller_trains_to_finite_numbers_or_names_what_it_cannot_take(examples):
    @hypothesis(examples)
    @given(BAD, st.sampled_from([0.0, 0.5, 1.0]))
    def check(bad, label_weight):
        name, value = bad
        STUDENT.set_weights(START)
        distiller = keras_ban.Distiller(student=STUDENT, teacher=TEACHER, label_weight=label_weight)
        distiller.compile("sgd", crossentropy(), run_eagerly=True)
        try:
            logs = distiller.fit(**{"x": X, "y": Y, "verbose": 0, name: value}).history
        except REFUSED as error:
            assert_named(name, error)
            return
        if name not in ("x", "validation_data"):
            assert_finite(logs)
            assert all(np.isfinite(weight).all() for weight in STUDENT.get_weights())

    check()


@pytest.mark.one_backend
@often(20, 2000)
def test_a_sequence_trains_to_finite_numbers_or_names_what_it_cannot_take_and_leaves_no_half_run(examples, tmp_path):
    @hypothesis(examples)
    @given(BAD, st.sampled_from([0.0, 0.5]))
    def check(bad, label_weight):
        name, value = bad
        directory = pathlib.Path(tempfile.mkdtemp(dir=tmp_path))
        sequence = keras_ban.BornAgainSequence(
            STUDENT, generations=1, label_weight=label_weight, directory=directory, seed=0
        )
        sequence.compile("sgd", crossentropy(), run_eagerly=True)
        try:
            history = sequence.fit(**{"x": X, "y": Y, "verbose": 0, name: value})
        except FloatingPointError as error:
            assert re.search(r"In the data, example \d of `x` .*|Try a lower learning rate, or `clipnorm`", str(error))
            assert name in ("x", "y", "sample_weight")
        except REFUSED as error:
            assert_named(name, error)
            # Nothing was begun, or whole generations are there: nothing in between.
            assert {".lock"} >= {path.name for path in directory.iterdir()} or len(sequence.models) > 0
        else:
            for record in history.records:
                assert_finite(record.logs if name != "validation_data" else {"loss": record.logs["loss"]})

    check()


def sequence_of(distillation_loss):
    sequence = keras_ban.BornAgainSequence(model(), generations=1, distillation_loss=distillation_loss)
    sequence.compile("sgd", crossentropy(), run_eagerly=True)
    return sequence


def assert_refused_before_training(message, distillation_loss, **arguments):
    sequence = sequence_of(distillation_loss)
    with pytest.raises(ValueError, match=message):
        sequence.fit(**{"x": X, "y": Y, "verbose": 0, **arguments})
    assert [] == sequence.models


class Weighted(keras.utils.PyDataset):
    """One batch, with weights."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return X, Y, np.ones(EXAMPLES)


@pytest.mark.one_backend
@pytest.mark.parametrize("weights", [{"sample_weight": np.ones(EXAMPLES)}, {"class_weight": {0: 2.0}}, {"y": None}])
def test_weights_that_a_loss_of_keras_distillation_cannot_hear_are_refused_before_generation_0(weights):
    loss = keras.distillation.LogitsDistillation(loss=keras.losses.KLDivergence())
    if "y" in weights:
        weights = {"x": Weighted(), "y": None}

    assert_refused_before_training("`sample_weight` and `class_weight` cannot act on it", loss, **weights)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("distillation_loss", "message"),
    [
        ({"elsewhere": losses.KnowledgeDistillation()}, r"no outputs of the names \['elsewhere'\]"),
        ([losses.KnowledgeDistillation()] * 2, "The model has 1 outputs, but 2 values came"),
    ],
)
def test_losses_for_other_outputs_are_refused_before_generation_0(distillation_loss, message):
    assert_refused_before_training(f"`distillation_loss` does not fit .*{message}", distillation_loss)


@pytest.mark.one_backend
def test_a_run_that_was_refused_leaves_its_directory_to_the_right_data(tmp_path):
    sequence = keras_ban.BornAgainSequence(model(), generations=1, directory=tmp_path, seed=0)
    sequence.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))

    with pytest.raises(ValueError, match=r"received `y` of shape \(6,\).*`SparseCategoricalCrossentropy`"):
        sequence.fit(X, Y, verbose=0)
    sequence.fit(X, ONE_HOT, verbose=0)

    assert 2 == len(sequence.models)


def test_data_that_do_not_fit_are_told_by_their_names_when_training_failed():
    distiller = keras_ban.Distiller(student=model(), teacher=model())
    distiller.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"`y`, of which a first batch is float32\(6, 2\), does not fit the loss"):
        distiller.fit(X, ONE_HOT[:, :2], verbose=0)
    with pytest.raises(ValueError, match=r"`x`, of which a first batch is float32\(6, 5\), does not fit the model"):
        distiller.fit(np.ones((EXAMPLES, 5), "float32"), ONE_HOT, verbose=0)
    with pytest.raises(ValueError, match=r"`validation_data\[0\]`, .* float32\(6, 5\), does not fit the model"):
        distiller.fit(X, ONE_HOT, verbose=0, validation_data=(np.ones((EXAMPLES, 5), "float32"), ONE_HOT))


@pytest.mark.one_backend
def test_validation_data_of_another_form_change_nothing_of_what_is_learnt():
    weights = []
    for dtype in ("float32", "float64"):
        keras.utils.set_random_seed(1)
        student = keras.Sequential([keras.Input((INPUTS,)), keras.layers.Dropout(0.5), keras.layers.Dense(CLASSES)])
        distiller = keras_ban.Distiller(student=student, teacher=TEACHER)
        distiller.compile("sgd", crossentropy(), metrics=["accuracy"])
        distiller.fit(X, Y, batch_size=2, verbose=0, validation_data=(X.astype(dtype), Y))
        weights.append(values(student))

    assert_same(*weights)


@pytest.mark.one_backend
def test_errors_that_are_not_about_the_data_stay_as_they_are():
    class Breaks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyError("mine")

    distiller = keras_ban.Distiller(student=model(), teacher=model())
    distiller.compile("sgd", crossentropy())
    with pytest.raises(KeyError, match="mine"):
        distiller.fit(X, Y, verbose=0, callbacks=[Breaks()])


class WithBound(keras.layers.Layer):
    """A lower bound among the weights, which is -inf: none."""

    def build(self, input_shape):
        self.bound = self.add_weight(shape=(), initializer=keras.initializers.Constant(-np.inf), trainable=False)

    def call(self, x):
        return keras.ops.maximum(x, self.bound)


def test_what_keras_trains_on_is_not_refused():
    """Weights of classes by floats, as `np.unique` gives them; an infinite weight; no argument `training`."""

    class OwnLoss(keras.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return super().compute_loss(x, y, y_pred, sample_weight)

    def build(generation):
        return OwnLoss([keras.Input(X.shape[1:]), keras.layers.Flatten(), keras.layers.Dense(3), WithBound()])

    sequence = keras_ban.BornAgainSequence(build, generations=1, seed=0)
    sequence.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    with pytest.warns(UserWarning, match="`compute_loss` of its own"):
        sequence.fit(X, Y % 2, class_weight={0.0: 1.0, 1.0: 2.0}, verbose=0)

    assert 2 == len(sequence.models)


@pytest.mark.one_backend
def test_rows_of_texts_are_told_apart_whatever_holds_them():
    texts = np.array(["one", "two", "one"])
    keys = fingerprints.example_keys(texts)

    assert keys[0] == keys[2] != keys[1]
    assert list(keys) == list(fingerprints.example_keys(texts.astype(object)))
