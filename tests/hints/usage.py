"""The public interface as a user calls it. mypy checks the hints here, and nothing runs.

`assert_type` fails if a hint is another one. Lines that ignore an error fail if there is none: mypy then says
"unused type: ignore".
"""

import pathlib
from collections.abc import Sequence
from typing import Any, assert_type

import keras

import keras_ban


def train_a_sequence(model: keras.Model, x: Any, y: Any) -> None:
    sequence = keras_ban.BornAgainSequence(
        model, generations=2, label_weight=[0.5, keras_ban.OverTraining(lambda done: done)], directory="run", seed=0
    )
    keras_ban.BornAgainSequence(lambda generation: model, label_weight=lambda generation: 1 / generation)
    keras_ban.BornAgainSequence(model, directory=pathlib.Path("run"), shared_layers=["stem"], controls=["longer"])
    sequence.compile("adam", keras.losses.MeanSquaredError(), metrics=["mae"], jit_compile=False)

    history = sequence.fit(x, y, epochs=[3, 2, 2], callbacks=lambda generation: [], validation_data=(x, y), verbose=0)

    assert_type(history, keras_ban.BornAgainHistory)
    assert_type(sequence.history, keras_ban.BornAgainHistory)
    assert_type(sequence.models, Sequence[keras.Model])
    assert_type(sequence.ensemble(last=2), keras_ban.EnsembleModel)
    assert_type(sequence.evaluate(x, y), keras_ban.BornAgainHistory)
    assert_type(keras_ban.BornAgainSequence.load("run"), keras_ban.BornAgainSequence)
    sequence.fit(x, y, epochs=lambda generation: generation + 1, mode="min", patience=1)

    # The decorator of the constructor keeps its signature.
    keras_ban.BornAgainSequence(model, temperature=3)  # type: ignore[call-arg]
    keras_ban.BornAgainSequence(model, generations="three")  # type: ignore[arg-type]
    keras_ban.BornAgainSequence(model, teach_from="first")  # type: ignore[arg-type]
    keras_ban.BornAgainSequence(model, shared_layers="stem")  # type: ignore[arg-type]
    sequence.fit(x, y, mode="largest")  # type: ignore[arg-type]
    sequence.best  # type: ignore[attr-defined] # noqa: B018


def read_a_history(history: keras_ban.BornAgainHistory) -> None:
    assert_type(history.summary(), str)
    history.report(pathlib.Path("report.html"), class_names=["a", "b"], file_names=[pathlib.Path("a.jpg")])
    history.report(7)  # type: ignore[arg-type]
    assert_type(history.best_generation, int)
    assert_type(history.records, list[keras_ban.GenerationRecord])
    assert_type(history.members[0].metrics["val_loss"], float | list)
    assert_type(history.monitored(), dict[int, float])
    assert_type(history.controls, keras_ban.Controls | None)
    assert_type(keras_ban.BornAgainHistory.from_json(history.to_json()), keras_ban.BornAgainHistory)
    if history.controls is not None:
        assert_type(history.controls.longer, keras_ban.ControlRecord | None)
    history.summary(width="wide")  # type: ignore[arg-type]


def distill(student: keras.Model, teacher: keras.Model, x: Any, y: Any) -> None:
    targets = keras_ban.SoftTargets.from_teacher(teacher, x, top_k=10, dtype="float16", path="targets.npy")
    assert_type(targets, keras_ban.SoftTargets)
    assert_type(keras_ban.SoftTargets.load(pathlib.Path("targets.npy")), keras_ban.SoftTargets)
    assert_type(len(targets), int)
    assert_type(targets.shape, tuple[int, ...])
    assert_type(targets.top_k, int | None)
    assert_type(targets.covered_mass, dict[str, float])
    assert_type(targets.verify(lambda batch: batch, x), float)
    matching = keras_ban.FeatureMatching({"student_hidden": "teacher_hidden"}, weight=0.1)
    assert_type(matching.layers, dict[str, str])
    distiller = keras_ban.Distiller(
        student=student,
        teacher=teacher,
        distillation_loss=keras_ban.losses.KnowledgeDistillation(temperature=lambda step: 2.0),
        label_weight=keras.optimizers.schedules.CosineDecay(0.5, 1000),
        feature_matching=matching,
    )
    distiller.compile("adam", "mse")
    distiller.fit(x, y, epochs=2, soft_targets=targets)
    keras_ban.SoftTargets.from_teacher(teacher, x, dtype="int8")  # type: ignore[arg-type]
    keras_ban.Distiller(student=student, label_weight="half")  # type: ignore[arg-type]
    keras_ban.Distiller(student, teacher)  # type: ignore[call-arg]
    keras_ban.Distiller(student=student, feature_matching=["hidden"])  # type: ignore[arg-type]
    distiller.fit(x, y, soft_targets=[1.0])  # type: ignore[arg-type]


def use_losses() -> None:
    loss = keras_ban.losses.DecoupledKnowledgeDistillation(target_weight=1, from_logits=True)
    assert_type(loss.target_weight, float)
    assert_type(keras_ban.losses.PermutedDarkKnowledge(seed=1).seed, int | None)
    assert_type(keras_ban.losses.KnowledgeDistillation(standardize=True).standardize, bool)
    keras_ban.losses.DIST(1.0, 2.0, reduction=None)
    keras_ban.losses.ConfidenceWeighted(ignore_class=-1)
    keras_ban.losses.KnowledgeDistillation(activation="relu")  # type: ignore[arg-type]
    keras_ban.losses.DIST(temperature="hot")  # type: ignore[arg-type]


def use_models(models: list[keras.Model], x: Any, y: Any) -> None:
    ensemble = keras_ban.EnsembleModel(models, weights=[0.5, 0.5], average="logits")
    assert_type(ensemble.calibrate(x, y), float)
    assert_type(ensemble.fit_weights(x, y, max_members=1), list[float])
    assert_type(ensemble.member_weights, list[float])
    parts = keras_ban.gradient_decomposition(models[0], models[1], x, y, temperature=2.0)
    assert_type(parts, keras_ban.GradientDecomposition)
    assert_type(parts.batch_dark_knowledge_share, float)
    assert_type(keras_ban.export(ensemble, "serving/1", members=True), dict[str, float])
    keras_ban.share_layers(keras_ban.reborn(models[0]), models[0], {"student_stem": "stem"})
    keras_ban.EnsembleModel(models, average="median")  # type: ignore[arg-type]
    keras_ban.export(ensemble, "model", format="pickle")  # type: ignore[arg-type]
