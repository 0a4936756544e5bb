"""Calls that are right in other libraries: the error names the right call."""

import inspect

import keras
import numpy as np
import pytest
from helpers.models import classifier

import keras_ban

pytestmark = pytest.mark.one_backend


def make(kind, **arguments):
    if kind == "Distiller":
        return keras_ban.Distiller(student=classifier(), teacher=classifier(), **arguments)
    if kind == "BornAgainSequence":
        return keras_ban.BornAgainSequence(classifier(), **arguments)
    return keras_ban.EnsembleModel([classifier()], **arguments)


@pytest.mark.parametrize(
    "argument, advice",
    [
        ("temperature", r"distillation_loss=keras_ban.losses.KnowledgeDistillation\(temperature=...\)"),
        ("alpha", "use `label_weight`"),
        ("optimizer", "pass it to `compile`"),
        ("epochs", "pass it to `fit`"),
        ("label_weigth", "use `label_weight`"),
        ("distillation_losses", "use `distillation_loss`"),
        ("quux", "its arguments are .*label_weight"),
    ],
)
@pytest.mark.parametrize("kind", ["Distiller", "BornAgainSequence"])
def test_an_argument_of_another_library_names_the_right_one(kind, argument, advice):
    with pytest.raises(TypeError, match=f"{kind} takes no argument `{argument}`: .*{advice}"):
        make(kind, **{argument: 3})


def test_other_classes_and_subclasses_name_theirs():
    class Mine(keras_ban.Distiller):
        pass

    with pytest.raises(TypeError, match="EnsembleModel takes no argument `weight`: use `weights`"):
        make("EnsembleModel", weight=[1])
    with pytest.raises(TypeError, match="BornAgainSequence takes no argument `teacher`: pass it to `fit`"):
        make("BornAgainSequence", teacher=classifier())
    with pytest.raises(TypeError, match="Mine takes no argument `temperature`"):
        Mine(student=classifier(), temperature=2)


def test_soft_targets_of_an_array_name_the_ways_to_make_them():
    with pytest.raises(TypeError, match=r"made by `SoftTargets.from_teacher\(teacher, x\)`.*'soft_targets': outputs"):
        keras_ban.SoftTargets([[0.2, 0.8]])


CALLS = [
    ("compile", "metric", "use `metrics`"),
    ("compile", "temperature", r"distillation_loss=keras_ban.losses.KnowledgeDistillation\(temperature=...\)"),
    ("compile", "alpha", "use `label_weight`.* It is an argument of the constructor"),
    ("compile", "student_loss_fn", "pass `loss` to `compile`"),
    ("compile", "distillation_loss_fn", "use `distillation_loss`. It is an argument of the constructor"),
    ("compile", "quux", "its arguments are those of `keras.Model`, and those of its own"),
    ("fit", "epoch", "use `epochs`"),
    ("fit", "unlabelled", "use `unlabeled`"),
    ("fit", "metrics", "pass it to `compile`"),
]


@pytest.mark.parametrize(("method", "argument", "advice"), CALLS)
@pytest.mark.parametrize("kind", ["Distiller", "BornAgainSequence"])
def test_compile_and_fit_name_the_right_argument(kind, method, argument, advice, tmp_path):
    directory = {"directory": tmp_path / "run"} if kind == "BornAgainSequence" else {}
    made = make(kind, **directory)
    arguments = {"compile": ("adam", "mse"), "fit": ([[0.0] * 8], [0])}
    if method == "fit":
        made.compile(*arguments["compile"])

    with pytest.raises(TypeError, match=f"`{method}` takes no argument `{argument}`: .*{advice}"):
        getattr(made, method)(*arguments[method], **{argument: 3})

    assert not (tmp_path / "run").exists()


def test_evaluate_takes_the_verbose_of_keras_and_names_the_right_argument():
    sequence = make("BornAgainSequence", generations=1)
    with pytest.raises(ValueError, match="No generation is trained yet"):
        sequence.evaluate([[0.0] * 8], [0], verbose=0, steps=1)
    for argument, advice in {"callbacks": "pass it to `fit`", "return_dict": "its arguments are x, y,"}.items():
        with pytest.raises(TypeError, match=f"`evaluate` takes no argument `{argument}`: {advice}"):
            sequence.evaluate([[0.0] * 8], [0], **{argument: True})


def test_fit_of_a_distiller_is_not_said_to_take_a_teacher():
    made = make("Distiller")
    made.compile("adam", "mse")
    with pytest.raises(TypeError, match="`fit` takes no argument `teacher`: its arguments are those of"):
        made.fit([[0.0] * 8], [0], teacher=classifier())


TAKE_A_TEACHER = {
    "Distiller": lambda teacher: keras_ban.Distiller(student=classifier(), teacher=teacher),
    "fit": lambda teacher: sequence_to_fit().fit(np.zeros((1, 8)), [0], teacher=teacher),
    "from_teacher": lambda teacher: keras_ban.SoftTargets.from_teacher(teacher, [[0.0] * 8]),
}


def sequence_to_fit():
    made = make("BornAgainSequence")
    made.compile("sgd", "mse")
    return made


@pytest.mark.parametrize("take", TAKE_A_TEACHER)
def test_a_layer_as_teacher_is_refused_with_how_to_make_a_model_of_it(take):
    with pytest.raises(TypeError, match=r"received: <Dense .*`keras.Sequential\(\[keras.Input\(shape\), layer\]\)`"):
        TAKE_A_TEACHER[take](keras.layers.Dense(3))


@pytest.mark.parametrize("take", ["Distiller", "fit"])
def test_a_function_as_teacher_is_refused_with_how_it_can_teach(take):
    with pytest.raises(TypeError, match=r"received: <function .*`SoftTargets.from_teacher\(function, x\)`"):
        TAKE_A_TEACHER[take](lambda batch: batch)


def test_student_and_teacher_by_position_are_refused_with_their_names():
    with pytest.raises(TypeError, match=r"no positional arguments.*`Distiller\(student=..., teacher=...\)`"):
        keras_ban.Distiller(classifier(), classifier())


def test_a_missing_argument_is_named():
    with pytest.raises(TypeError, match="BornAgainSequence: missing a required argument: 'model'"):
        keras_ban.BornAgainSequence()


class Own(keras.Model):
    def call(self, inputs):
        return inputs

    def train_step(self, *arguments):
        return super().train_step(*arguments)


def test_warnings_of_a_constructor_name_the_line_that_called_it():
    with pytest.warns(UserWarning, match="has `train_step` of its own") as caught:
        keras_ban.Distiller(student=Own(), label_weight=1)

    assert [__file__] == [each.filename for each in caught]


@pytest.mark.parametrize(
    "model, advice",
    [
        (lambda: classifier(), r"cannot be: too many positional arguments. Write `lambda generation: ...`"),
        (lambda generation, width: classifier(), "missing a required argument: 'width'"),
        (keras.Sequential, "must be a `keras.Model`, or a callable"),
        ("model", "must be a `keras.Model`, or a callable"),
    ],
)
def test_a_builder_that_takes_no_generation_is_refused_before_anything_is_trained(model, advice):
    with pytest.raises(TypeError, match=advice):
        keras_ban.BornAgainSequence(model)


def test_signatures_are_still_those_of_the_classes():
    assert ["student", "teacher"] == list(inspect.signature(keras_ban.Distiller).parameters)[:2]
    assert ["model", "generations"] == list(inspect.signature(keras_ban.BornAgainSequence).parameters)[:2]
