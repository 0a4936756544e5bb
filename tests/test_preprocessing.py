"""Models that preprocess their data in `fit`, `evaluate` and `predict`, as KerasHub's tasks do.

The oracle is the same model without a preprocessor, on data that were preprocessed by hand.
"""

import keras
import numpy as np
import pytest
from helpers.data import Batches
from helpers.models import assert_same, crossentropy, values
from helpers.runs import change_manifest
from helpers.tasks import WORDS, Scaler, Task, counted, text_task, texts_of_words

import keras_ban
from keras_ban import BornAgainSequence, Distiller, EnsembleModel, SoftTargets, reborn
from keras_ban._src.data.fingerprints import model_fingerprint
from keras_ban._src.data.kinds import as_data
from keras_ban._src.data.model_inputs import is_fingerprint_of
from keras_ban._src.files import model_file
from keras_ban._src.sequence.soft_target_choice import soft_targets_for_training

# Keras warns at the end of any data of unknown length.
pytestmark = pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")

FIT = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0}
OTHER_WORDS = WORDS[::-1]


def copy_of(task, preprocessor=None):
    """A task with the same weights and another preprocessor."""
    other = Task(preprocessor)
    other.set_weights(task.get_weights())
    return other


def compiled(student, teacher=None, **options):
    distiller = Distiller(student=student, teacher=teacher, **options)
    distiller.compile(keras.optimizers.SGD(0.1), crossentropy(), weighted_metrics=["accuracy"])
    return distiller


def pair(preprocess=text_task):
    """`(with preprocessors, by hand)`: each a compiled Distiller of models with the same weights."""
    student, teacher = preprocess(), preprocess()
    return compiled(student, teacher), compiled(copy_of(student), copy_of(teacher))


def tf_data(x, y, size=16):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((x.tolist() if x.dtype.kind == "U" else x, y)).batch(size)


def of_unknown_length(x, y):
    return tf_data(x, y).filter(lambda x, y: True)


def loader(x, y, size=16):
    torch = pytest.importorskip("torch")
    return torch.utils.data.DataLoader(list(zip(x.tolist(), y, strict=True)), size)


def generator(x, y, size=16):
    return ((x[i : i + size], y[i : i + size]) for i in range(0, len(x), size))


KINDS = {
    "PyDataset": lambda x, y: Batches(x, y, 16),
    "tf.data": tf_data,
    "DataLoader": loader,
    "generator": generator,
}


def test_a_distiller_preprocesses_each_batch_once_for_student_and_teacher():
    task = Task(Scaler())
    distiller, by_hand = compiled(reborn(task), task), compiled(copy_of(task), copy_of(task))
    by_hand.student.set_weights(distiller.student.get_weights())
    x, y = np.random.default_rng(0).normal(size=(48, 8)).astype("float32"), np.arange(48) % 3
    weights = np.linspace(0.1, 2, 48).astype("float32")
    expected = by_hand.fit(x * np.float32(0.5), y, sample_weight=weights, validation_data=(x * 0.5, y), **FIT)
    calls = task.preprocessor.calls
    actual = distiller.fit(x, y, sample_weight=weights, validation_data=(x, y), **FIT)
    assert expected.history == actual.history
    assert_same(values(by_hand.student), values(distiller.student))
    # 3 batches for training and for validation in 2 epochs, and first batches that are looked at.
    assert 12 <= task.preprocessor.calls - calls <= 24


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_all_kinds_of_data_are_preprocessed(kind):
    distiller, by_hand = pair()
    x, y = texts_of_words()
    options = {"epochs": 1 if kind == "generator" else 2, "verbose": 0, "shuffle": False}
    expected = by_hand.fit(counted(x), y, batch_size=16, **options).history
    assert expected == distiller.fit(KINDS[kind](x, y), **options).history
    assert_same(values(by_hand.student), values(distiller.student))
    assert by_hand.evaluate(counted(x), y, batch_size=16, verbose=0) == distiller.evaluate(KINDS[kind](x, y), verbose=0)


def test_methods_of_a_distiller_and_an_ensemble_preprocess():
    distiller, by_hand = pair()
    x, y = texts_of_words()
    made = counted(x)
    for model, other in ((distiller, by_hand), (ensemble_of(distiller), ensemble_of(by_hand))):
        assert_same([other.predict(made, verbose=0)], [model.predict(x, verbose=0)])
        assert_same([other.predict_on_batch(made)], [model.predict_on_batch(x)])
        assert other.evaluate(made, y, verbose=0) == model.evaluate(x, y, verbose=0)
        assert other.test_on_batch(made, y) == model.test_on_batch(x, y)
    assert by_hand.train_on_batch(made, y) == distiller.train_on_batch(x, y)
    assert_same(values(by_hand.student), values(distiller.student))


def test_an_ensemble_of_texts_is_trained():
    ensemble, by_hand = map(ensemble_of, pair())
    x, y = texts_of_words()
    for model in (ensemble, by_hand):
        model.compile(keras.optimizers.SGD(0.1), crossentropy())
    options = {**FIT, "validation_split": 0.25}
    assert by_hand.fit(counted(x), y, **options).history == ensemble.fit(x, y, **options).history
    assert by_hand.train_on_batch(counted(x), y) == ensemble.train_on_batch(x, y)
    assert_same(values(by_hand), values(ensemble))


def ensemble_of(distiller):
    ensemble = EnsembleModel([distiller.student, distiller.teacher])
    ensemble.compile(loss=crossentropy())
    return ensemble


def test_an_ensemble_is_fitted_to_held_out_texts():
    x, _ = texts_of_words()
    ensemble, by_hand = map(ensemble_of, pair())
    y = by_hand.predict(counted(x), verbose=0).argmax(axis=-1)
    y[::4] = (y[::4] + 1) % 3
    for data, made in (((x, y), (counted(x), y)), ((Batches(x, y),), (Batches(counted(x), y),))):
        assert by_hand.fit_weights(*made) == ensemble.fit_weights(*data)
        assert by_hand.calibrate(*made) == ensemble.calibrate(*data)


def test_a_gradient_is_split_for_texts():
    distiller, by_hand = pair()
    x, y = texts_of_words()
    parts = keras_ban.gradient_decomposition(distiller.student, distiller.teacher, x, y)
    expected = keras_ban.gradient_decomposition(by_hand.student, by_hand.teacher, counted(x), y)
    np.testing.assert_array_equal(expected.dark_knowledge, parts.dark_knowledge)


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("in_file", [False, True])
def test_soft_targets_belong_to_the_rows_of_the_texts(tmp_path, in_file, top_k):
    distiller, by_hand = pair()
    x, y = texts_of_words()
    options = {"top_k": top_k, "verbose": 0, "path": tmp_path / "targets.npy" if in_file else None}
    targets = SoftTargets.from_teacher(distiller.teacher, x, **options)
    expected = SoftTargets.from_teacher(by_hand.teacher, counted(x), top_k=top_k, verbose=0)
    assert_same([expected.to_dense()], [targets.to_dense()])
    assert targets.verify(distiller.teacher, x) < 1e-3
    expected = by_hand.fit(counted(x), y, soft_targets=expected, validation_split=0.25, **FIT).history
    assert expected == distiller.fit(x, y, soft_targets=targets, validation_split=0.25, **FIT).history
    with pytest.raises(ValueError, match="do not belong to `x`"):
        distiller.fit(x[::-1], y, soft_targets=targets, **FIT)


def test_views_are_of_preprocessed_inputs():
    teacher = Task(Scaler())
    augmentation = keras.layers.GaussianNoise(0.3, seed=0)
    x, y = np.random.default_rng(0).normal(size=(32, 8)).astype("float32"), np.arange(32) % 3
    targets = SoftTargets.from_teacher(teacher, x, augmentation=augmentation, views=2, verbose=0)
    assert targets.verify(teacher, x, augmentation=augmentation) < 1e-6
    # A student that equals its teacher has no distillation loss, if both see the same views.
    student = compiled(copy_of(teacher, Scaler()), augmentation=augmentation, label_weight=0.0)
    np.testing.assert_allclose(0.0, student.fit(x, y, soft_targets=targets, **FIT).history["loss"], atol=1e-6)


def test_unlabeled_texts_are_preprocessed():
    distiller, by_hand = pair()
    (x, y), (more, _) = texts_of_words(), texts_of_words(16, seed=1)
    expected = by_hand.fit(counted(x), y, unlabeled=counted(more), **FIT).history
    assert expected == distiller.fit(x, y, unlabeled=more, **FIT).history
    assert_same(values(by_hand.student), values(distiller.student))


def test_arrays_are_shuffled_anew_in_each_epoch():
    seen = []

    class Noting(Scaler):
        def __call__(self, x, y=None, sample_weight=None):
            seen.append(np.asarray(x)[:, 0])
            return super().__call__(x, y, sample_weight)

    task = Task(Noting())
    x = np.arange(48, dtype="float32").repeat(8).reshape(48, 8) / 48
    compiled(task, reborn(task)).fit(x, np.arange(48) % 3, **{**FIT, "shuffle": True})
    epochs = [np.concatenate(seen[-3:]), np.concatenate(seen[-6:-3])]
    assert not any(np.array_equal(epoch, x[:, 0]) for epoch in epochs) and not np.array_equal(*epochs)
    for epoch in epochs:
        np.testing.assert_array_equal(x[:, 0], np.sort(epoch))


@pytest.mark.one_backend
def test_the_texts_of_a_table_are_the_inputs():
    datasets = pytest.importorskip("datasets")
    distiller, by_hand = pair()
    x, y = texts_of_words()
    columns = {"index": np.arange(48), "text": x.tolist(), "label": y}
    expected = by_hand.fit(counted(x), y, **FIT).history
    assert expected == distiller.fit(datasets.Dataset.from_dict(columns), **FIT).history
    with pytest.raises(ValueError, match="hold texts. Pass those that the preprocessor takes"):
        distiller.fit(datasets.Dataset.from_dict({**columns, "title": x.tolist()}), **FIT)


# Student and teacher with different preprocessors.


def differ(**options):
    """A compiled Distiller whose teacher has another vocabulary."""
    return compiled(text_task(), text_task(OTHER_WORDS), **options)


@pytest.mark.parametrize("kind", ["arrays", "PyDataset"])
def test_a_teacher_with_another_preprocessor_gets_its_own_inputs(kind):
    distiller, by_hand = differ(), compiled(Task())
    by_hand.student.set_weights(distiller.student.get_weights())
    x, y = texts_of_words()
    soft_targets = keras.ops.convert_to_numpy(distiller.teacher(counted(x, OTHER_WORDS)))
    assert np.abs(soft_targets - keras.ops.convert_to_numpy(distiller.teacher(counted(x)))).max() > 0.1
    expected = by_hand.fit(counted(x), {"labels": y, "soft_targets": soft_targets}, **FIT).history
    data = (x, y) if kind == "arrays" else (Batches(x, y, 16),)
    options = FIT if kind == "arrays" else {**FIT, "batch_size": None}
    actual = distiller.fit(*data, **options).history
    np.testing.assert_allclose(expected["loss"], actual["loss"], rtol=1e-5)
    # The soft targets by hand were computed in one batch, which rounds otherwise.
    for one, other in zip(values(by_hand.student), values(distiller.student), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_stored_soft_targets_may_come_from_a_teacher_with_another_preprocessor():
    distiller, by_hand = differ(), compiled(Task())
    by_hand.student.set_weights(distiller.student.get_weights())
    x, y = texts_of_words()
    targets = SoftTargets.from_teacher(distiller.teacher, x, verbose=0)
    expected = by_hand.fit(counted(x), {"labels": y, "soft_targets": targets.to_dense()}, **FIT).history
    assert expected == distiller.fit(x, y, soft_targets=targets, **FIT).history


@pytest.mark.parametrize("of_student", [True, False])
def test_a_model_without_a_preprocessor_gets_the_data_as_they_are(of_student):
    with_one, without = Task(Scaler()), Task()
    models = (without, with_one) if of_student else (with_one, without)
    distiller = compiled(*models)
    x, y = np.random.default_rng(0).normal(size=(32, 8)).astype("float32"), np.arange(32) % 3
    inputs = (x, x * 0.5) if of_student else (x * 0.5, x)
    by_hand = compiled(copy_of(models[0]))
    soft_targets = keras.ops.convert_to_numpy(models[1](inputs[1]))
    expected = by_hand.train_on_batch(inputs[0], {"labels": y, "soft_targets": soft_targets})
    np.testing.assert_allclose(expected, distiller.train_on_batch(x, y), rtol=1e-5)


def test_an_augmentation_cannot_show_the_same_to_different_preprocessors():
    distiller = differ(augmentation=keras.layers.GaussianNoise(1.0, seed=0))
    with pytest.raises(ValueError, match="preprocess the data differently"):
        distiller.fit(*texts_of_words(), **FIT)


def test_members_with_different_preprocessors_are_refused():
    ensemble = EnsembleModel([text_task(), text_task(OTHER_WORDS)], name="two")
    with pytest.raises(ValueError, match="members of 'two' preprocess their inputs differently"):
        ensemble.predict(texts_of_words()[0])


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (text_task, text_task, True),
        (text_task, lambda: text_task(OTHER_WORDS), False),
        (text_task, lambda: text_task(makes_labels=True), False),
        (lambda: Task(Scaler(2.0)), lambda: Task(Scaler(2.0, name="other")), True),
        (lambda: Task(Scaler(2.0)), lambda: Task(Scaler(3.0)), False),
        (lambda: Task(Scaler(2.0)), Task, False),
    ],
)
def test_preprocessors_are_alike_if_class_configuration_and_vocabulary_are(one, other, alike):
    from keras_ban._src.data.preprocessing import Preprocessing

    assert alike is not Preprocessing(one(), other()).differ


# Preprocessors that make labels, or draw random numbers.


def test_a_preprocessor_may_make_labels_and_weights():
    distiller, by_hand = pair(lambda: text_task(makes_labels=True))
    x, _ = texts_of_words()
    rows = [[WORDS.index(word) for word in text.split()] for text in x]
    made = counted([" ".join(text.split()[:-1]) for text in x])
    y, weights = np.array([row[-1] % 3 for row in rows]), np.array([1.0 + row[0] for row in rows], "float32")
    expected = by_hand.fit(made, y, sample_weight=weights, validation_data=(made, y, weights), **FIT)
    assert expected.history == distiller.fit(x, validation_data=(x,), **FIT).history
    assert_same(values(by_hand.student), values(distiller.student))
    expected = by_hand.evaluate(made, y, sample_weight=weights, batch_size=16, verbose=0)
    assert expected == distiller.evaluate(x, batch_size=16, verbose=0)


def test_labels_that_two_preprocessors_make_would_not_be_of_the_same_tokens():
    distiller = compiled(text_task(makes_labels=True), text_task(OTHER_WORDS, makes_labels=True))
    with pytest.raises(ValueError, match="makes the labels from the inputs"):
        distiller.fit(texts_of_words()[0], **FIT)


def test_random_inputs_have_no_stored_soft_targets():
    random, x = text_task(hides_words=True), texts_of_words()[0]
    with pytest.raises(ValueError, match="makes other inputs of the same data each time"):
        SoftTargets.from_teacher(random, x, verbose=0)
    targets = SoftTargets.from_teacher(text_task(), x, verbose=0)
    with pytest.raises(ValueError, match="makes other inputs of the same data each time"):
        compiled(random).fit(*texts_of_words(), soft_targets=targets, **FIT)


def test_a_sequence_runs_the_teacher_online_where_inputs_are_random(capsys):
    x, y = texts_of_words()
    sequence = BornAgainSequence(text_task(hides_words=True), 1, seed=0)
    sequence.compile("sgd", crossentropy())
    history = sequence.fit(x, y, **FIT)
    assert 2 == len(history.records) and np.isfinite(history.records[1].logs["distillation_loss"]).all()


@pytest.mark.one_backend
def test_a_dataset_of_unknown_length_needs_a_number_of_steps():
    distiller, by_hand = pair()
    x, y = texts_of_words()
    with pytest.raises(ValueError, match="pass `steps_per_epoch`"):
        distiller.fit(of_unknown_length(x, y), verbose=0)
    expected = by_hand.fit(counted(x), y, **FIT).history
    assert expected == distiller.fit(of_unknown_length(x, y), epochs=2, steps_per_epoch=3, verbose=0).history
    assert by_hand.evaluate(counted(x), y, batch_size=16) == distiller.evaluate(of_unknown_length(x, y))


# Sequences.


def sequence_of(model, directory=None, generations=2, **options):
    sequence = BornAgainSequence(model, generations, seed=3, directory=directory, **options)
    sequence.compile(keras.optimizers.SGD(0.1, momentum=0.9), crossentropy(), metrics=["accuracy"])
    return sequence


@pytest.mark.parametrize("soft_targets", ["cached", "online"])
def test_a_sequence_trains_and_scores_its_generations_on_preprocessed_data(soft_targets):
    task = text_task()
    x, y = texts_of_words()
    sequences = [sequence_of(model, soft_targets=soft_targets) for model in (copy_of(task), task)]
    by_hand, actual = (
        made.fit(inputs, y, validation_data=(inputs, y), **FIT)
        for made, inputs in zip(sequences, (counted(x), x), strict=True)
    )
    assert [record.logs for record in by_hand.records] == [record.logs for record in actual.records]
    assert [record.metrics for record in by_hand.records] == [record.metrics for record in actual.records]
    assert [record.scores for record in by_hand.records] == [record.scores for record in actual.records]
    assert by_hand.ensemble == actual.ensemble
    for one, other in zip(*(sequence.models for sequence in sequences), strict=True):
        assert_same(values(one), values(other))
    scores = [made.evaluate(inputs, y) for made, inputs in zip(sequences, (counted(x), x), strict=True)]
    assert scores[0].ensemble == scores[1].ensemble
    assert_same([sequences[0].ensemble().predict(counted(x))], [sequences[1].ensemble().predict(x)])


def test_a_sequence_trains_on_unlabeled_texts():
    task, (x, y), (more, _) = text_task(), texts_of_words(), texts_of_words(16, seed=1)
    by_hand, actual = (
        sequence_of(model).fit(made(x), y, unlabeled=made(more), **FIT)
        for model, made in ((copy_of(task), counted), (task, lambda texts: texts))
    )
    assert [record.logs for record in by_hand.records] == [record.logs for record in actual.records]


OTHERS = texts_of_words(16, seed=1)[0]


@pytest.mark.parametrize("held_out", [{"validation_split": 0.25}, {"validation_data": (OTHERS,)}])
def test_a_sequence_trains_on_labels_that_the_preprocessor_makes(held_out):
    x, _ = texts_of_words()
    history = sequence_of(text_task(makes_labels=True)).fit(x, **held_out, **FIT)
    assert 3 == len(history.records) and history.best_generation in range(3)
    assert all({"val_loss", "val_accuracy"} == set(record.metrics) for record in history.records)
    assert history.records[0].logs["loss"][-1] < history.records[0].logs["loss"][0]


def test_a_sequence_of_texts_resumes_and_is_loaded(tmp_path):
    x, y = texts_of_words()
    options = {**FIT, "shuffle": True, "validation_data": (x, y)}
    whole = sequence_of(text_task())
    whole.fit(x, y, **options)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise InterruptedError

    stopped = sequence_of(text_task(), tmp_path)
    with pytest.raises(InterruptedError):
        stopped.fit(x, y, callbacks=lambda generation: [Stop()] if generation == 1 else [], **options)
    resumed = sequence_of(text_task(), tmp_path)
    resumed.fit(x, y, callbacks=lambda generation: [], **options)
    loaded = BornAgainSequence.load(tmp_path)
    for made in (resumed, loaded):
        for one, other in zip(whole.models, made.models, strict=True):
            assert_same(one.get_weights(), other.get_weights())
            assert_same([one.predict(x, verbose=0)], [other.predict(x, verbose=0)])


@pytest.mark.parametrize("changed", ["the model", "the teacher"])
def test_a_run_with_another_vocabulary_is_another_run(changed, tmp_path):
    x, y = texts_of_words()
    model, teachers = text_task(OTHER_WORDS if changed == "the model" else WORDS), [text_task(), text_task()]
    if changed == "the teacher":
        teachers[1] = text_task(OTHER_WORDS)
    teachers[1].set_weights(teachers[0].get_weights())
    sequence_of(text_task(), tmp_path).fit(x, y, teacher=teachers[0], **FIT)

    sequence_of(text_task(), tmp_path).fit(x, y, teacher=teachers[0], **FIT)
    with pytest.raises(ValueError, match="preprocessor: other values than in the directory"):
        sequence_of(model, tmp_path).fit(x, y, teacher=teachers[1], **FIT)

    def forget(manifest):
        begun_with = manifest["begun_with"]
        for each in [begun_with["teacher"], *begun_with["model"].values()]:
            del each["preprocessor"]

    # Runs of older versions do not say the preprocessors, and go on.
    change_manifest(tmp_path, forget)
    sequence_of(text_task(), tmp_path).fit(x, y, teacher=teachers[0], **FIT)


def test_the_fingerprint_of_a_teacher_names_its_vocabulary_in_each_process(tmp_path):
    x, _ = texts_of_words()
    tasks = [text_task(), text_task(), text_task(OTHER_WORDS), Task()]
    for task in tasks[1:]:
        task.set_weights(tasks[0].get_weights())
    model_file.save(tasks[1], tmp_path / "task.keras")
    tasks[1] = model_file.load(tmp_path / "task.keras")
    data = [x, x, x, counted(x)]
    found = [SoftTargets.from_teacher(*pair, verbose=0).teacher_fingerprint for pair in zip(tasks, data, strict=True)]
    assert found[0] == found[1]
    assert 3 == len(set(found))
    assert model_fingerprint(tasks[3]) == found[3]
    # Files of older versions have that of the weights alone.
    assert [True, True, True, False] == [is_fingerprint_of(each, tasks[0]) for each in (*found[:2], found[3], found[2])]


def test_interrupted_soft_targets_of_another_vocabulary_are_computed_again(tmp_path):
    x, y = texts_of_words()
    one, other = text_task(), text_task(OTHER_WORDS)
    other.set_weights(one.get_weights())
    path = tmp_path / "targets.npy"
    of_one = SoftTargets.from_teacher(one, x, path=path, verbose=0).to_dense()
    sequence = sequence_of(text_task())
    data, options = as_data(x, y), {"verbose": 0}
    kept = soft_targets_for_training(sequence, one, one, data, options, path)
    assert_same([of_one], [kept.to_dense()])
    again = soft_targets_for_training(sequence, other, other, data, options, path)
    expected = SoftTargets.from_teacher(other, x, verbose=0).to_dense()
    assert_same([expected], [again.to_dense()])
    assert not np.array_equal(of_one, expected)


def test_reborn_after_fit_keeps_the_preprocessor():
    x, y = texts_of_words()
    task = text_task()
    task.compile("sgd", crossentropy())
    task.fit(x, y, verbose=0)
    student = reborn(task)
    assert student.preprocessor is task.preprocessor and task.preprocessor.packer is not None
    assert not any(
        np.array_equal(a, b) for a, b in zip(student.get_weights(), task.get_weights(), strict=True) if a.ndim > 1
    )
    assert (48, 3) == student.predict(x, verbose=0).shape


def test_soups_of_texts_are_made():
    x, y = texts_of_words()
    sequence = sequence_of(text_task(), initial_weights="model")
    sequence.fit(x, y, validation_data=(x, y), **FIT)
    soup = sequence.soup()
    assert (48, 3) == soup.predict(x, verbose=0).shape
    assert (48, 3) == sequence.soup("greedy", validation_data=(x, y)).predict(x, verbose=0).shape
    mean = np.mean([model.get_weights()[0] for model in sequence.models], axis=0)
    np.testing.assert_allclose(mean, soup.get_weights()[0], rtol=1e-5)


def test_files_of_a_distiller_and_an_ensemble_hold_the_vocabularies(tmp_path):
    x, y = texts_of_words()
    distiller = differ()
    distiller.fit(x, y, **FIT)
    ensemble = EnsembleModel([text_task(OTHER_WORDS), text_task(OTHER_WORDS)])
    for model, name in ((distiller, "distiller.keras"), (ensemble, "ensemble.keras")):
        model.save(tmp_path / name)
        again = keras.saving.load_model(tmp_path / name)
        assert_same([model.predict(x, verbose=0)], [again.predict(x, verbose=0)])
        if model is distiller:
            model.reset_metrics()  # Those of `fit`.
            assert model.train_on_batch(x, y) == again.train_on_batch(x, y)


def test_a_sequence_augments_preprocessed_inputs():
    x, y = np.random.default_rng(0).normal(size=(32, 8)).astype("float32"), np.arange(32) % 3
    task, logs = Task(Scaler()), []
    for model, inputs in ((copy_of(task), x * np.float32(0.5)), (task, x)):
        augmentation = keras.layers.GaussianNoise(0.3, seed=0)
        history = sequence_of(model, generations=1, augmentation=augmentation).fit(inputs, y, **FIT)
        logs.append([record.logs for record in history.records])
    assert logs[0] == logs[1]


def test_a_distiller_refuses_soft_targets_of_its_teacher_with_another_vocabulary():
    x, y = texts_of_words()
    teacher, other = text_task(), text_task(OTHER_WORDS)
    other.set_weights(teacher.get_weights())
    targets = SoftTargets.from_teacher(other, x, verbose=0)
    with pytest.raises(
        ValueError, match="whose weights, preprocessor or temperature are not those of this Distiller's"
    ):
        compiled(text_task(), teacher).fit(x, y, soft_targets=targets, **FIT)
