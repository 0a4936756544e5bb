"""The controls of a `BornAgainSequence`: models trained on labels alone, at the cost of the generations."""

import json
import math
import re
import shutil

import keras
import numpy as np
import pytest
from helpers.models import assert_same, classifier, crossentropy, values
from helpers.runs import assert_same_run, content, names, run, sequence
from helpers.sequences import FIT, MOMENTUM, compiled
from helpers.training import fit_in_order, interrupted_after

import keras_ban
from keras_ban import BornAgainHistory, BornAgainSequence, reborn
from keras_ban._src.runs.directory import RunDirectory
from keras_ban._src.sequence import stretched_schedule
from keras_ban._src.sequence.recipes import CompileArguments
from keras_ban._src.targets import augmented_views

BOTH = ("longer", "independent")
# Generation 0, two students, the longer model, and two independent models beside generation 0.
EPOCHS = [3, 2, 1]
TOTAL = 6


def controlled(directory=None, controls=BOTH, **arguments):
    return sequence(directory, controls=controls, metrics=["accuracy"], **arguments)


def fit(made, data, **arguments):
    made.fit(*data, **{**FIT, "batch_size": 32, "epochs": EPOCHS, "validation_data": data, **arguments})
    return made


def stored_model(directory, name):
    return keras.saving.load_model(directory / f"control-{name}" / "model.keras")


def by_hand(record, model, data, epochs, optimizer, **options):
    """Train a control anew under its recorded seed, by Keras alone."""
    keras.utils.set_random_seed(record.seed)
    model = reborn(model)
    model.compile(optimizer, crossentropy(), run_eagerly=True)
    fit_in_order(model, record.seed, *data, **{**FIT, "batch_size": 32, "epochs": epochs, **options})
    return model


def probabilities(model, x):
    logits = model.predict(x, batch_size=32, verbose=0).astype("float64")
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


# What they are


def test_controls_are_the_models_that_keras_alone_would_train(blobs, tmp_path):
    model = classifier()
    made = compiled(model, generations=2, directory=tmp_path, controls=BOTH)

    history = made.fit(*blobs, **{**FIT, "batch_size": 32}, epochs=EPOCHS, validation_data=blobs)

    longer, *independents = history.controls.records
    assert ("longer", TOTAL) == (longer.control, longer.epochs)
    assert [("independent", 2, 3), ("independent", 3, 3)] == [(r.control, r.number, r.epochs) for r in independents]
    assert 6 == len({record.seed for record in [*history.records, longer, *independents]})
    for record, epochs in [(longer, TOTAL), *((each, EPOCHS[0]) for each in independents)]:
        expected = by_hand(record, model, blobs, epochs, MOMENTUM, validation_data=blobs)
        assert_same(expected.get_weights(), stored_model(tmp_path, record.name).get_weights())
        assert record.metrics["val_loss"] == pytest.approx(expected.evaluate(*blobs, verbose=0), rel=1e-5)  # float32


def test_scores_are_those_of_the_outputs(blobs, tmp_path):
    x, y = blobs
    made = fit(controlled(tmp_path), blobs)

    history = made.history
    best, controls = history.best_generation, history.controls
    longer = probabilities(stored_model(tmp_path, "longer"), x).argmax(-1) == y
    of_best = probabilities(made.models[best], x).argmax(-1) == y
    scores = controls.longer.scores
    assert (best, longer.mean()) == (scores.compared_with, scores.accuracy)
    assert (longer & ~of_best).sum() == scores.positive_flips
    assert (of_best & ~longer).sum() == scores.negative_flips
    members = [made.models[0], *(stored_model(tmp_path, f"independent-{number:02d}") for number in (2, 3))]
    independent = np.mean([probabilities(each, x) for each in members], axis=0)
    ensemble = np.mean([probabilities(each, x) for each in made.models], axis=0).argmax(-1) == y
    right = independent.argmax(-1) == y
    scores = controls.ensemble
    assert ("ensemble", right.mean()) == (scores.compared_with, scores.accuracy)
    assert -np.log(independent[np.arange(len(y)), y]).mean() == pytest.approx(scores.nll, rel=1e-5)  # float32 outputs
    assert (right & ~ensemble).sum() == scores.positive_flips
    assert (ensemble & ~right).sum() == scores.negative_flips


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("arguments", "controls", "expected"),
    [
        ({}, ("longer",), ["longer"]),
        ({}, ["independent"], ["independent-02", "independent-03"]),
        ({}, ("independent", "longer", "longer"), ["longer", "independent-02", "independent-03"]),
        ({"distill_ensemble": True}, BOTH, ["longer", "independent-02", "independent-03"]),
        ({}, (), None),
        ({}, None, None),
    ],
)
def test_generations_are_those_of_a_sequence_without_controls(arguments, controls, expected, blobs):
    plain = fit(controlled(None, None, **arguments), blobs)

    made = fit(controlled(None, controls, **arguments), blobs)

    assert_same(*([each for model in s.models for each in values(model)] for s in (plain, made)))
    assert len(plain.ensemble().members) == len(made.ensemble().members) == 3
    assert plain.history.best_generation == made.history.best_generation
    data = made.history.to_dict()
    found = data.pop("controls", None)
    assert [{**record, "seconds": 0} for record in plain.history.to_dict()["records"]] == [
        {**record, "seconds": 0} for record in data["records"]
    ]
    assert expected == (found and [record.name for record in made.history.controls.records])
    if "distill_ensemble" in arguments:
        assert TOTAL + 1 == made.history.controls.longer.epochs


@pytest.mark.one_backend
def test_controls_count_the_generations_and_epochs_that_were_trained(blobs):
    stopping = keras.callbacks.EarlyStopping("val_loss", min_delta=1e6, patience=1, restore_best_weights=True)
    made = controlled(optimizer=keras.optimizers.SGD(0.0), generations=4)

    fit(made, blobs, epochs=5, callbacks=[stopping], patience=1)

    # A rate of 0 makes nothing better, so that generations have two epochs, and the first weights are the best.
    count = len(made.models)
    assert 1 < count < 5
    assert [2] * count == [record.epochs for record in made.history.records]
    assert [2 * count, *[2] * (count - 1)] == [record.epochs for record in made.history.controls.records]


@pytest.mark.one_backend
def test_the_longer_model_takes_the_best_weights_but_is_not_stopped(blobs):
    given = keras.callbacks.EarlyStopping("val_loss", mode="max", patience=0, restore_best_weights=True)
    made = fit(compiled(generations=2, controls=["longer"]), blobs, callbacks=lambda generation: [given])

    longer = made.history.controls.longer
    assert sum(record.epochs for record in made.history.records) == longer.epochs
    assert max(longer.logs["val_loss"]) == pytest.approx(longer.metrics["val_loss"], rel=1e-6)  # float32
    assert 0 == given.patience


@pytest.mark.one_backend
def test_controls_are_augmented_weighted_and_built_as_generation_0_is(blobs, tmp_path):
    x, y = blobs
    weights = np.where(y == 0, 3.0, 0.5)
    asked = []

    def build(generation):
        asked.append(generation)
        return classifier(units=8 + generation)

    noise = keras.layers.GaussianNoise(0.5, seed=1)
    made = compiled(build, directory=tmp_path, controls=BOTH, augmentation=noise, label_weight=[0.5])
    made.fit(x, y, **FIT, epochs=2, sample_weight=weights)

    assert [0, 1, 0, 0] == asked
    record = made.history.controls.independents[0]
    assert {} == record.metrics and record.scores is None is made.history.controls.ensemble
    keras.utils.set_random_seed(record.seed)
    again = keras_ban.Distiller(student=build(0), label_weight=1, augmentation=noise)
    again.compile(MOMENTUM, crossentropy(), run_eagerly=True)
    augmented_views.reseed(noise, record.seed)
    fit_in_order(again, record.seed, x, y, **FIT, epochs=2, sample_weight=weights)
    assert_same(again.student.get_weights(), stored_model(tmp_path, record.name).get_weights())
    assert 8 == stored_model(tmp_path, "longer").layers[0].units


# Interruptions


@pytest.fixture
def whole(blobs, tmp_path):
    return fit(controlled(tmp_path / "whole"), blobs)


@pytest.mark.parametrize(
    ("control", "epoch"),
    [
        ("longer", 4),
        pytest.param("longer", 5, marks=pytest.mark.one_backend),
        pytest.param("independent-02", 0, marks=pytest.mark.one_backend),
        pytest.param("independent-03", 1, marks=pytest.mark.one_backend),
    ],
)
def test_an_interrupted_control_goes_on_as_if_it_had_not_been(control, epoch, whole, blobs, tmp_path, epochs_trained):
    directory = tmp_path / "cut"
    with interrupted_after(control, epoch):
        fit(controlled(directory), blobs)
    keras.utils.set_random_seed(99)
    epochs_trained.clear()

    again = fit(controlled(directory), blobs)

    expected = [("longer", each) for each in range(TOTAL)]
    expected += [(f"independent-{number:02d}", each) for number in (2, 3) for each in range(3)]
    assert expected[expected.index((control, epoch)) + 1 :] == epochs_trained
    assert_same_run(whole, again)
    for name in ("longer", "independent-02", "independent-03"):
        assert_same(*(stored_model(tmp_path / each, name).get_weights() for each in ("whole", "cut")))
    assert_same_run(whole, BornAgainSequence.load(directory))


@pytest.mark.one_backend
def test_an_interruption_says_which_controls_are_kept(blobs, tmp_path):
    with pytest.raises(InterruptedError) as caught, pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "finish", lambda *_: (_ for _ in ()).throw(InterruptedError("by the test")))
        fit(controlled(tmp_path), blobs)
    assert "keeps generations 0 to 2 and 3 controls. " in caught.value.__notes__[0]


@pytest.mark.one_backend
def test_a_finished_run_is_read_and_names_what_it_has(whole, blobs, tmp_path, capsys):
    directory = tmp_path / "whole"
    folders = ["control-independent-02", "control-independent-03", "control-longer"]
    assert folders == [name for name in names(directory) if name.startswith("control")]
    assert ["history.csv", "model.keras", "record.json"] == names(directory / "control-longer")
    before = content(directory)

    again = fit(controlled(directory), blobs, callbacks=lambda _: pytest.fail("trained"), verbose=2)

    assert_same_run(whole, again)
    assert before == content(directory)
    loaded = BornAgainSequence.load(directory)
    assert BOTH == loaded.controls
    assert_same_run(whole, loaded)
    assert whole.history.summary() == loaded.history.summary()


@pytest.mark.one_backend
def test_a_run_is_continued_with_the_same_controls_alone(whole, blobs, tmp_path):
    directory = tmp_path / "whole"
    with pytest.raises(ValueError, match=r"- controls: \[.*\] in the directory, null now"):
        fit(controlled(directory, None), blobs)
    with pytest.raises(ValueError, match="3 generations|`controls`, so that it cannot go on to 3"):
        fit(controlled(directory, generations=3), blobs, epochs=[*EPOCHS, 1])


@pytest.mark.one_backend
def test_a_run_without_controls_has_the_manifest_that_it_had(blobs, tmp_path):
    run(tmp_path, blobs)
    manifest = json.loads((tmp_path / "run.json").read_text())
    names = {"run", "versions", "seed", "finished", "generations", "ensemble", "begun_with", "format", "checksum"}
    assert names == set(manifest)
    assert "controls" not in manifest["begun_with"]


@pytest.mark.one_backend
def test_a_damaged_or_unfinished_control_is_noticed(whole, blobs, tmp_path):
    directory = shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    (directory / "control-longer" / "record.json").write_text("{}")
    with pytest.raises(ValueError, match="control-longer/record.json has 2 bytes.*Generations 0 to 2 are whole"):
        BornAgainSequence.load(directory)

    shutil.copytree(directory / "control-longer", directory / "control-independent-09")
    (directory / ".control-independent-02.partial").mkdir()
    with pytest.warns(UserWarning, match="control-independent-09.set-aside"), RunDirectory(directory):
        assert not {"control-independent-09", ".control-independent-02.partial"} & set(names(directory))


@pytest.mark.one_backend
def test_a_control_that_ends_in_nan_is_named(blobs, tmp_path):
    class Spoil(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            self.model.layers[0].kernel.assign(self.model.layers[0].kernel * float("nan"))

    calls = []

    def callbacks(generation):
        calls.append(generation)
        return [Spoil()] if len(calls) > 3 else []

    made = controlled(tmp_path)
    with pytest.raises(FloatingPointError, match="The control 'longer' ended with.*The generations are kept"):
        fit(made, blobs, callbacks=callbacks)
    assert [0, 1, 2, 0] == calls
    assert 3 == len(made.models) == len(made.history.records)


# What is said


@pytest.mark.one_backend
def test_progress_names_each_control(blobs, tmp_path, capsys):
    with interrupted_after("independent-02", 0):
        fit(controlled(tmp_path), blobs, verbose=2)
    said = capsys.readouterr().out
    assert "Control: one model of 6 epochs, on labels alone\n" in said
    assert "Control: independent model 2 of 3, on labels alone\n" in said

    fit(controlled(tmp_path), blobs, verbose=2)

    said = capsys.readouterr().out
    assert f"Control: one model of 6 epochs, already in {tmp_path}" in said
    assert "Control: independent model 2 of 3, on labels alone\nResuming at epoch 2/3" in said


def history_with(longer, ensemble, flips=(5, 5)):
    """Best generation 1 with 80%, an ensemble with 82%, of 100 examples; and controls of these accuracies."""
    scores = {"examples": 100, "nll": 0.5, "ece": 0.05}
    records = [
        {"generation": 0, "metrics": {"val_loss": 0.6}, "scores": {**scores, "accuracy": 0.75}, "seconds": 1.0},
        {"generation": 1, "metrics": {"val_loss": 0.5}, "scores": {**scores, "accuracy": 0.80}, "seconds": 2.0},
    ]
    compared = {"agreement": 0.9, "positive_flips": flips[0], "negative_flips": flips[1]}
    of_longer = {**scores, "accuracy": longer, "compared_with": 1, **compared}
    of_ensemble = {**scores, "accuracy": ensemble, "compared_with": "ensemble", **compared}
    controls = [
        {"control": "longer", "epochs": 20, "metrics": {"val_loss": 0.55}, "scores": of_longer, "seconds": 3.0},
        {"control": "independent", "number": 2, "scores": {**scores, "accuracy": 0.74}, "seconds": 4.0},
    ]
    return BornAgainHistory.from_dict(
        {
            "records": records,
            "ensemble": {**scores, "accuracy": 0.82},
            "controls": {"records": controls, "ensemble": of_ensemble},
        }
    )


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("flips", "expected"),
    [
        # p of McNemar's exact test, from the binomial distribution: 2 * 0.5**10, and 2 * (1 + 10 + 45 + 120) / 2**10.
        ((0, 10), "paid against one model of 20 epochs (generation 1: 80.00%, longer: 77.00%, p 0.002)"),
        ((3, 7), "paid against one model of 20 epochs (generation 1: 80.00%, longer: 77.00%, p 0.344, chance?)"),
        ((5, 5), "did not pay against one model of 20 epochs (generation 1: 80.00%, longer: 77.00%, p 1.000, chance?)"),
        ((10, 0), "did not pay against one model of 20 epochs (generation 1: 80.00%, longer: 77.00%, p 0.002)"),
    ],
)
def test_the_summary_ends_with_a_sentence_that_says_whether_it_paid(flips, expected):
    lines = history_with(0.77, 0.81, flips).summary(160).splitlines()

    assert all(len(line) <= 160 for line in lines)
    text = " ".join(lines)
    sentence = text[text.index("being born again ") :]
    assert sentence.startswith(f"being born again {expected}, and ")
    assert re.search(r"pay|paid", sentence.removeprefix(f"being born again {expected}"))
    assert "against 2 independents (ensemble: 82.00%, theirs: 81.00%, p " in sentence
    rows = [line.split() for line in lines]
    assert ["longer", "77.00%", "0.5000", "5.00%"] in [row[:4] for row in rows]
    assert ["independent", "2", "74.00%", "0.5000", "5.00%", "4.0"] in rows
    assert "20" == next(row for row in rows if row and row[0] == "longer")[-2]
    assert ["2", "independents", "81.00%"] in [row[:3] for row in rows]


@pytest.mark.one_backend
def test_without_validation_data_there_is_no_sentence(blobs):
    made = fit(controlled(), blobs, validation_data=None)

    summary = made.history.summary()
    assert "longer" in summary and "independent 2" in summary and "being born again" not in summary


@pytest.mark.one_backend
def test_where_no_generation_is_the_best_the_longer_model_is_not_compared():
    history = history_with(0.77, 0.81)
    for record in history.records:
        record.metrics["val_loss"] = math.nan

    summary = history.summary()

    assert "longer:" not in summary and "being born again paid against 2 independents" not in summary
    assert "being born again did not pay against 2 independents" in summary


@pytest.mark.one_backend
def test_models_without_classes_are_compared_by_what_is_monitored(blobs):
    x, _ = blobs
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    made = BornAgainSequence(
        model, generations=1, distillation_loss=keras.losses.MeanSquaredError(), seed=3, controls=BOTH
    )
    made.compile("sgd", "mse", run_eagerly=True)

    history = made.fit(x, x[:, :1], **FIT, epochs=2, validation_data=(x, x[:, :1]))

    best, longer = history.records[history.best_generation].metrics["val_loss"], history.controls.longer
    verb = "paid" if best < longer.metrics["val_loss"] else "did not pay"
    expected = f"being born again {verb} against one model of 4 epochs (generation {history.best_generation}: val_loss "
    *_, sentence = history.summary().partition("being born again ")
    sentence = f"being born again {' '.join(sentence.split())}"

    def spoken(p_value):
        return f"p {f'{p_value:.3f}' if p_value >= 0.001 else '< 0.001'}{'' if p_value < 0.05 else ', chance?'}"

    tested = spoken(longer.scores.p_value)
    assert sentence.startswith(f"{expected}{best:.4g}, longer: {longer.metrics['val_loss']:.4g}, {tested})")
    theirs = history.controls.ensemble
    verb = "paid" if history.ensemble.loss < theirs.loss else "did not pay"
    both = f"ensemble: loss {history.ensemble.loss:.4g}, theirs: {theirs.loss:.4g}"
    assert f"and {verb} against 2 independents ({both}, {spoken(theirs.p_value)})" in sentence


@pytest.mark.one_backend
def test_the_plot_has_a_line_for_each_control():
    axes = history_with(0.77, 0.81).plot()

    (axis,) = [axis for axis in axes if axis.get_title() == "accuracy, validation data"]
    levels = {line.get_label(): line.get_ydata()[0] for line in axis.lines}
    assert (77, 81) == pytest.approx((levels["longer"], levels["2 independents"]))
    assert {"longer", "2 independents"} <= {text.get_text() for text in axis.get_legend().get_texts()}


@pytest.mark.one_backend
def test_a_history_with_controls_is_read_back_from_json():
    history = history_with(0.77, 0.81)

    again = BornAgainHistory.from_json(history.to_json())

    assert history == again
    assert (0.77, 0.81) == (again.controls.longer.scores.accuracy, again.controls.ensemble.accuracy)
    assert "controls" not in BornAgainHistory().to_dict()


# What is refused, and what is not fair


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ("longer", "`controls` must be a list of names, ['longer', 'independent'] or some of them, received: 'longer'"),
        (True, "`controls` must be a list of names"),
        (["long"], "`controls` must be 'longer' or 'independent', received: 'long'"),
        ([1], "`controls` must be 'longer' or 'independent', received: 1"),
    ],
)
def test_other_controls_are_refused(controls, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BornAgainSequence(classifier(), controls=controls)


@pytest.mark.one_backend
def test_controls_are_refused_with_a_teacher_whose_cost_is_not_known(blobs):
    with pytest.raises(ValueError, match="what a given `teacher` cost is not known. Leave out `teacher`"):
        fit(controlled(), blobs, epochs=1, teacher=classifier(), callbacks=lambda _: pytest.fail("trained"))


SCHEDULES = keras.optimizers.schedules


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (SCHEDULES.CosineDecay(0.1, decay_steps=10), SCHEDULES.CosineDecay(0.1, decay_steps=25)),
        (
            SCHEDULES.CosineDecay(0.0, decay_steps=8, warmup_target=0.1, warmup_steps=2),
            SCHEDULES.CosineDecay(0.0, decay_steps=23, warmup_target=0.1, warmup_steps=2),
        ),
        (SCHEDULES.PolynomialDecay(0.1, 10, 0.01, 2.0), SCHEDULES.PolynomialDecay(0.1, 25, 0.01, 2.0)),
        (SCHEDULES.PolynomialDecay(0.1, 10, cycle=True), SCHEDULES.PolynomialDecay(0.1, 10, cycle=True)),
        (
            SCHEDULES.PiecewiseConstantDecay([4, 8], [0.1, 0.01, 0.001]),
            SCHEDULES.PiecewiseConstantDecay([10, 20], [0.1, 0.01, 0.001]),
        ),
        (SCHEDULES.ExponentialDecay(0.1, 10, 0.5), SCHEDULES.ExponentialDecay(0.1, 10, 0.5)),
        (SCHEDULES.CosineDecayRestarts(0.1, 10), SCHEDULES.CosineDecayRestarts(0.1, 10)),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, keras.optimizers.LossScaleOptimizer])
def test_schedules_that_end_are_stretched(schedule, expected, wrap):
    arguments = CompileArguments(wrap(keras.optimizers.SGD(schedule, momentum=0.5)), None, None, loss="mse")

    stretched = stretched_schedule.stretched(arguments, 2.5).make()["optimizer"]

    inner = getattr(stretched, "inner_optimizer", stretched)
    assert 0.5 == inner.momentum
    found = inner.get_config()["learning_rate"]["config"]
    assert expected.get_config() == found
    stretched_schedule.warn_of_others("No schedule is another", arguments, None)  # Warnings are errors.


@pytest.mark.one_backend
def test_the_longer_model_has_the_rate_of_its_length(blobs):
    rates = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    made = controlled(optimizer=keras.optimizers.SGD(SCHEDULES.CosineDecay(0.1, decay_steps=9)), controls=["longer"])
    fit(made, blobs, callbacks=lambda _: [Watch()])

    # Three steps an epoch: three epochs for generation 0, six for the longer model.
    expected = [0.05 * (1 + math.cos(math.pi * epoch / TOTAL)) for epoch in range(TOTAL)]
    np.testing.assert_allclose(rates[sum(EPOCHS) :], expected, rtol=1e-6, atol=1e-8)  # float32


class OwnSchedule(SCHEDULES.LearningRateSchedule):
    def __call__(self, step):
        return 0.1

    def get_config(self):
        return {}


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("optimizer", "callbacks", "named"),
    [
        (keras.optimizers.SGD(OwnSchedule()), None, "the schedule OwnSchedule"),
        ("sgd", [keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)], "a `LearningRateScheduler`"),
    ],
)
def test_a_schedule_that_may_end_too_early_is_warned_of_before_training(optimizer, callbacks, named, blobs):
    keras.saving.get_custom_objects()["OwnSchedule"] = OwnSchedule
    made = controlled(optimizer=optimizer, controls=["longer"], generations=1)

    with pytest.raises(UserWarning, match=re.escape(f"The longer control may not be fair: {named} may end")):
        fit(made, blobs, epochs=1, callbacks=callbacks)
    made = controlled(optimizer=optimizer, controls=["independent"], generations=1)
    fit(made, blobs, epochs=1, callbacks=callbacks)
    del keras.saving.get_custom_objects()["OwnSchedule"]


@pytest.mark.one_backend
def test_a_data_frame_has_a_row_for_each_control():
    frame = history_with(0.77, 0.81).to_dataframe()

    expected = ["generation 0", "generation 1", "ensemble", "longer", "independent 2", "2 independents"]
    assert expected == list(frame["name"])
    assert [0.77, 0.74, 0.81] == list(frame["accuracy"])[-3:]
