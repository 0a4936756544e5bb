"""That a `Distiller` is a `keras.Model`: compile options, callbacks, data, files."""

import csv
import warnings

import keras
import numpy as np
import pytest
from helpers.data import CLASSES, Batches, make_blobs
from helpers.models import assert_same, classifier, crossentropy, values
from helpers.tables import cases

import keras_ban
from keras_ban.losses import KnowledgeDistillation

BACKEND = keras.config.backend()


def compiled(student=None, teacher=None, optimizer=None, **compile_arguments):
    model = keras_ban.Distiller(student=student or classifier(), teacher=teacher or classifier())
    model.compile(optimizer or keras.optimizers.SGD(0.1), crossentropy(), **compile_arguments)
    return model


def final_weights(blobs, make_optimizer=None, fit_arguments=None, **compile_arguments):
    """The student's weights after two epochs, from the same start each time."""
    keras.utils.set_random_seed(5)
    teacher, student = classifier(), classifier()
    model = compiled(student, teacher, make_optimizer() if make_optimizer else None, **compile_arguments)
    model.fit(*blobs, batch_size=24, epochs=2, shuffle=False, verbose=0, **(fit_arguments or {}))
    return student.get_weights()


@pytest.fixture(scope="module")
def expected():
    """`final_weights` of compiled steps on arrays."""
    return final_weights(make_blobs())


def assert_close(expected, actual):
    for e, a in zip(expected, actual, strict=True):
        np.testing.assert_allclose(e, a, atol=1e-5)  # another compiler, or the same sums in another order


def test_run_eagerly_and_jit_compile_train_alike(blobs):
    eager = final_weights(blobs, run_eagerly=True)
    jit_compile = BACKEND != "torch"  # torch's compiler has a test of its own: it needs a C++ compiler, and minutes
    jitted = final_weights(blobs, jit_compile=jit_compile)

    assert_close(eager, jitted)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own affairs, and breaks where that is an error
def test_torch_compiles_the_step(blobs):
    if BACKEND != "torch":
        pytest.skip("about torch.compile")

    assert_close(final_weights(blobs, run_eagerly=True), final_weights(blobs, jit_compile=True))


def test_several_steps_per_execution_train_as_one_does(blobs, expected):
    if BACKEND == "torch":
        with pytest.raises(ValueError, match="`steps_per_execution` must be 1 with the PyTorch backend"):
            final_weights(blobs, steps_per_execution=2)
        return

    assert_close(expected, final_weights(blobs, steps_per_execution=2))


@pytest.mark.one_backend
def test_gradient_accumulation_equals_the_larger_batch(blobs):
    x, y = blobs
    keras.utils.set_random_seed(5)
    teacher, student = classifier(), classifier()
    whole = keras.models.clone_model(student)
    whole.set_weights(student.get_weights())

    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    compiled(student, teacher, optimizer).fit(x, y, batch_size=24, shuffle=False, verbose=0)
    compiled(whole, teacher).fit(x, y, batch_size=96, shuffle=False, verbose=0)

    assert_close(whole.get_weights(), student.get_weights())


def test_a_moving_average_of_weights_ends_in_the_student(blobs, expected):
    averaged = final_weights(blobs, lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))

    assert any((e != a).any() for e, a in zip(expected, averaged, strict=True))


@pytest.mark.one_backend
def test_gradients_are_clipped_as_the_optimizer_says(blobs):
    start = final_weights(blobs, lambda: keras.optimizers.SGD(0.0))
    clipped = final_weights(blobs, lambda: keras.optimizers.SGD(1.0, global_clipnorm=1e-3))

    moved = np.sqrt(sum(((c - s) ** 2).sum() for c, s in zip(clipped, start, strict=True)))
    assert 0 < moved <= 8 * 1.01e-3  # 8 steps, each of length 1e-3 at most


@pytest.mark.one_backend
def test_loss_weights_weigh_a_single_output(blobs):
    student, teacher = classifier(), classifier()
    logs = []
    for weights in (None, [0.5]):
        model = compiled(student, teacher, keras.optimizers.SGD(0.0), loss_weights=weights)
        logs.append(model.fit(*blobs, verbose=0).history)

    for name in ("loss", "label_loss", "distillation_loss"):
        np.testing.assert_allclose(0.5 * np.array(logs[0][name]), logs[1][name], rtol=1e-6)


def test_logs_hold_the_losses_and_the_metrics_and_validation_speaks_of_the_student(blobs):
    x, y = blobs
    student = classifier(kernel_regularizer="l2")
    model = compiled(student, metrics=["accuracy"])

    logs = model.fit(x, y, validation_data=(x[:40], y[:40]), verbose=0).history

    student.compile(loss=crossentropy(), metrics=["accuracy"])
    expected = student.evaluate(x[:40], y[:40], return_dict=True, verbose=0)
    assert {"loss", "label_loss", "distillation_loss", "accuracy", "val_loss", "val_accuracy"} == set(logs)
    np.testing.assert_allclose(expected["loss"], logs["val_loss"][-1], rtol=1e-6)
    assert expected == model.evaluate(x[:40], y[:40], return_dict=True, verbose=0)
    np.testing.assert_array_equal(student.predict(x, verbose=0), model.predict(x, verbose=0))


def test_evaluation_changes_nothing(blobs):
    student = classifier(dropout=0.5, batch_norm=True)
    model = compiled(student)
    model.fit(*blobs, verbose=0)
    before = values(student)

    first = model.evaluate(*blobs, verbose=0)
    model.predict(blobs[0], verbose=0)
    second = model.evaluate(*blobs, verbose=0)

    assert first == second
    assert_same(before, values(student))


@pytest.mark.one_backend
def test_validation_data_do_not_change_what_is_learnt(blobs, expected):
    assert_same(expected, final_weights(blobs, fit_arguments={"validation_data": blobs}))


@pytest.mark.one_backend
def test_summary_count_params_and_layers_are_the_students(blobs, capsys):
    student = classifier()
    model = compiled(student, classifier(units=100))

    lines = []
    model.summary(print_fn=lines.append)
    expected = []
    student.summary(print_fn=expected.append)

    assert expected == lines
    assert student.count_params() == model.count_params()
    assert student.layers[-1] is model.get_layer(student.layers[-1].name)
    assert student.layers[0] is model.get_layer(index=0)
    assert [v.path for v in student.trainable_variables] == [v.path for v in model.trainable_variables]
    assert len(student.weights) == len(model.weights)


def test_callbacks_see_the_students_validation_loss(blobs, tmp_path):
    x, y = blobs
    model = compiled(optimizer=keras.optimizers.SGD(0.5))
    callbacks = [
        keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True, min_delta=0.05),
        keras.callbacks.ReduceLROnPlateau(patience=1, min_delta=10.0),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.weights.h5", save_best_only=True, save_weights_only=True),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]

    history = model.fit(x, y, epochs=30, validation_data=blobs, callbacks=callbacks, verbose=0).history

    assert len(history["loss"]) < 30
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row["val_loss"]) for row in rows], history["val_loss"], rtol=1e-6)
    assert float(rows[-1]["learning_rate"]) < 0.5
    best = keras.saving.load_model(tmp_path / "best.keras")
    np.testing.assert_allclose(best.evaluate(x, y, verbose=0), min(history["val_loss"]), rtol=1e-5)


def average(teacher, student):
    for ours, theirs in zip(teacher.weights, student.weights, strict=True):
        ours.assign(0.5 * ours + 0.5 * theirs)


class MeanTeacher(keras.callbacks.Callback):
    """The teacher is the moving average of its student (Tarvainen & Valpola, 2017)."""

    def on_train_batch_end(self, batch, logs=None):
        average(self.model.teacher, self.model.student)


def test_a_teacher_that_a_callback_changes_teaches_so_from_the_next_step_on(blobs):
    def make():
        keras.utils.set_random_seed(0)
        distiller = keras_ban.Distiller(student=classifier(), teacher=classifier())
        distiller.compile(keras.optimizers.SGD(0.5), crossentropy())
        return distiller

    (x, y), expected, actual = blobs, make(), make()
    start = values(expected.teacher)

    for _ in range(2):
        for begin in range(0, len(x), 24):
            expected.train_on_batch(x[begin : begin + 24], y[begin : begin + 24])
            average(expected.teacher, expected.student)
    actual.fit(x, y, batch_size=24, epochs=2, shuffle=False, callbacks=[MeanTeacher()], verbose=0)

    assert any(np.any(old != new) for old, new in zip(start, values(actual.teacher), strict=True))
    assert_same(values(expected.teacher), values(actual.teacher))
    assert_same(values(expected.student), values(actual.student))


@pytest.mark.one_backend
def test_tensorboard_writes_its_logs(blobs, tmp_path):
    pytest.importorskip("tensorflow", reason="Keras's callback needs TensorFlow under every backend")

    compiled().fit(*blobs, callbacks=[keras.callbacks.TensorBoard(tmp_path)], validation_data=blobs, verbose=0)

    assert list(tmp_path.rglob("events*"))


def test_a_saved_distiller_comes_back_compiled_and_trains_on_as_the_original_does(blobs, tmp_path):
    x, y = blobs
    teacher, student = classifier(batch_norm=True), classifier(batch_norm=True)
    model = keras_ban.Distiller(
        student=student,
        teacher=teacher,
        distillation_loss=KnowledgeDistillation(temperature=3.0),
        label_weight=0.2,
    )
    model.compile(keras.optimizers.Adam(0.01), crossentropy(), metrics=["accuracy"])
    model.fit(x, y, verbose=0)

    model.save(tmp_path / "distiller.keras")
    restored = keras.saving.load_model(tmp_path / "distiller.keras")

    np.testing.assert_array_equal(model.predict(x, verbose=0), restored.predict(x, verbose=0))
    assert model.evaluate(x, y, verbose=0) == restored.evaluate(x, y, verbose=0)
    assert_same(values(teacher), values(restored.teacher))
    expected = model.fit(x, y, epochs=2, shuffle=False, verbose=0).history
    actual = restored.fit(x, y, epochs=2, shuffle=False, verbose=0).history
    assert expected == actual
    assert_same(student.get_weights(), restored.student.get_weights())


@pytest.mark.one_backend
def test_a_distiller_of_several_outputs_comes_back_with_its_losses(blobs, tmp_path):
    x, y = blobs

    def two_headed():
        inputs = keras.Input((8,))
        heads = {name: keras.layers.Dense(CLASSES, name=name)(inputs) for name in ("first", "second")}
        return keras.Model(inputs, heads)

    losses = {"first": KnowledgeDistillation(temperature=3.0), "second": None}
    model = keras_ban.Distiller(student=two_headed(), teacher=two_headed(), distillation_loss=losses, label_weight=0.1)
    labels = {"first": y, "second": y}
    model.compile(
        "sgd", {"first": crossentropy(), "second": crossentropy()}, loss_weights={"first": 2.0, "second": 1.0}
    )
    model.fit(x, labels, verbose=0)
    model.save(tmp_path / "distiller.keras")
    restored = keras.saving.load_model(tmp_path / "distiller.keras")

    expected = model.fit(x, labels, shuffle=False, verbose=0).history
    assert expected == restored.fit(x, labels, shuffle=False, verbose=0).history


@pytest.mark.one_backend
def test_a_saved_teacher_keeps_what_its_layers_were_adapted_to(blobs, tmp_path):
    pytest.importorskip("tensorflow", reason="Keras looks tokens up with TensorFlow under every backend")
    tokens = np.random.default_rng(0).integers(10, 14, (96, 1))
    lookup = keras.layers.IntegerLookup()
    lookup.adapt(tokens)
    layers = [lookup, keras.layers.Embedding(5, 4), keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    teacher = keras.Sequential([keras.Input((1,), dtype="int32"), *layers])
    expected = keras.ops.convert_to_numpy(teacher(tokens))
    model = keras_ban.Distiller(student=keras_ban.reborn(teacher), teacher=teacher)
    model.compile("sgd", crossentropy())

    model.save(tmp_path / "distiller.keras")
    restored = keras.saving.load_model(tmp_path / "distiller.keras")

    np.testing.assert_array_equal(expected, keras.ops.convert_to_numpy(restored.teacher(tokens)))


@pytest.mark.one_backend
def test_a_distiller_can_teach_and_be_saved_with_its_own_teacher(blobs, tmp_path):
    first = compiled()
    second = compiled(teacher=first)
    second.fit(*blobs, verbose=0)

    second.save(tmp_path / "second.keras")
    restored = keras.saving.load_model(tmp_path / "second.keras")

    assert_same(values(first.student), values(restored.teacher.student))
    assert_same(values(first.teacher), values(restored.teacher.teacher))


def test_what_is_exported_is_the_student(blobs, tmp_path):
    if BACKEND != "tensorflow":
        pytest.skip("the way out is the student's own: what Keras itself exports elsewhere is not this package's")
    tf = pytest.importorskip("tensorflow")
    model = compiled(teacher=classifier(units=20))

    model.export(tmp_path / "served", verbose=False)

    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(blobs[0]), model.predict(blobs[0], verbose=0), atol=1e-6)


@pytest.mark.one_backend
def test_weight_files_hold_the_student_alone(blobs, tmp_path):
    student = classifier()
    small, large = (compiled(student, classifier(units=units)) for units in (4, 500))

    for name, model in (("small", small), ("large", large)):
        model.save_weights(tmp_path / f"{name}.weights.h5")

    sizes = [(tmp_path / f"{name}.weights.h5").stat().st_size for name in ("small", "large")]
    assert sizes[0] == sizes[1]
    before = student.get_weights()
    student.set_weights([w * 0 for w in before])
    large.load_weights(tmp_path / "large.weights.h5")
    assert_same(before, student.get_weights())


@pytest.mark.one_backend
def test_the_student_is_a_plain_model(blobs, tmp_path):
    student = classifier()
    compiled(student).fit(*blobs, verbose=0)

    student.save(tmp_path / "student.keras")

    assert b"keras_ban" not in (tmp_path / "student.keras").read_bytes()
    assert type(student) is type(keras.saving.load_model(tmp_path / "student.keras"))


class Nested(Batches):
    def __getitem__(self, index):
        rows = slice(index * self.size, (index + 1) * self.size)
        return self.x[rows], keras.tree.map_structure(lambda leaf: leaf[rows], self.y)


def as_dataset(kind, x, y):
    if kind == "PyDataset":
        return Nested(x, y, size=24), {}
    if kind == "generator":
        return (Batches(x, y, size=24)[i % 4] for i in range(8)), {"steps_per_epoch": 4}
    if kind == "tf.data":
        tf = pytest.importorskip("tensorflow")
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(24), {}
    torch = pytest.importorskip("torch")
    tensors = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    return torch.utils.data.DataLoader(tensors, batch_size=24), {}


@cases("kind", "PyDataset", "tf.data", on_one_backend=["generator", "DataLoader"])
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed, but will be ignored:UserWarning")
def test_datasets_of_every_kind_train_as_arrays_do(blobs, kind, expected):
    keras.utils.set_random_seed(5)
    teacher, student = classifier(), classifier()
    data, arguments = as_dataset(kind, *blobs)

    model = compiled(student, teacher)
    model.fit(data, epochs=2, shuffle=False, verbose=0, **arguments)

    assert_close(expected, student.get_weights())


@cases("kind", "tf.data", on_one_backend=["PyDataset"])
def test_datasets_may_bring_soft_targets(blobs, kind, expected):
    x, y = blobs
    keras.utils.set_random_seed(5)
    teacher, student = classifier(), classifier()
    soft_targets = teacher.predict(x, verbose=0)
    data, _ = as_dataset(kind, x, {"labels": y, "soft_targets": soft_targets})
    model = keras_ban.Distiller(student=student)
    model.compile(keras.optimizers.SGD(0.1), crossentropy(), metrics=["accuracy"])
    model.fit(data, epochs=2, shuffle=False, validation_data=data, verbose=0)

    assert_close(expected, student.get_weights())


@pytest.mark.one_backend
def test_validation_split_works_with_soft_targets_too(blobs):
    x, y = blobs
    targets = {"labels": y, "soft_targets": classifier().predict(x, verbose=0)}
    model = keras_ban.Distiller(student=classifier())
    model.compile("sgd", crossentropy(), metrics=["accuracy"])

    assert "val_accuracy" in model.fit(x, targets, validation_split=0.25, verbose=0).history


def test_train_on_batch_takes_the_same_step_as_fit(blobs, expected):
    x, y = blobs
    keras.utils.set_random_seed(5)
    teacher, student = classifier(), classifier()
    model = compiled(student, teacher)

    for _ in range(2):
        for i in range(4):
            model.train_on_batch(x[24 * i : 24 * (i + 1)], y[24 * i : 24 * (i + 1)])

    assert_close(expected, student.get_weights())


def test_outputs_of_other_shapes_that_show_only_later_are_refused_before_a_weight_moves(blobs):
    student = classifier()
    before = student.get_weights()
    teacher = keras.Sequential([keras.layers.Dense(CLASSES + 2)])

    with pytest.raises(ValueError, match=r"\(32, 5\), the student's outputs \(.*3\)"):
        compiled(student, teacher).fit(*blobs, verbose=0)

    assert_same(before, student.get_weights())


class OwnCall(keras.Sequential):
    """A model of which no last layer is known."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask)


def test_probabilities_where_logits_are_declared_give_one_warning(blobs):
    model = compiled(teacher=OwnCall(classifier(activation="softmax").layers))

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        model.fit(*blobs, epochs=2, verbose=0)
        model.fit(*blobs, verbose=0)

    assert 1 == len([w for w in warned if "look like probabilities" in str(w.message)])


@pytest.mark.parametrize("jit_compile", ["auto", False])
def test_on_jax_the_teacher_of_a_compiled_step_runs_compiled_before_it_too(blobs, jit_compile):
    saw_values = []

    class Watched(OwnCall):
        def call(self, inputs, training=None, mask=None):
            try:
                keras.ops.convert_to_numpy(inputs)
                saw_values.append(True)
            except Exception:  # Each backend has its own, for a tensor without values.
                saw_values.append(False)
            return super().call(inputs, training=training, mask=mask)

    teacher = Watched(classifier().layers)
    teacher(blobs[0])
    saw_values.clear()
    compiled(teacher=teacher, jit_compile=jit_compile).fit(*blobs, verbose=0)

    expected = not (keras.config.backend() == "jax" and jit_compile == "auto")
    assert expected == any(saw_values)


def test_a_teacher_whose_outputs_are_not_finite_is_refused(blobs):
    teacher = classifier()
    teacher.set_weights([w * np.nan for w in teacher.get_weights()])

    with pytest.raises(ValueError, match="hold NaN or inf"):
        compiled(teacher=teacher).fit(*blobs, verbose=0)


def test_a_dataset_without_batches_is_refused():
    # The teacher is not built, so that the first batch is asked for before Keras sees the data.
    distiller = keras_ban.Distiller(student=classifier(), teacher=keras.Sequential([keras.layers.Dense(CLASSES)]))
    distiller.compile("sgd", crossentropy())

    with pytest.raises(ValueError, match="`x` (yields no batch|holds no examples)"):
        distiller.fit(iter([]), verbose=0)
