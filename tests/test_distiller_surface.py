"""That a `Distiller` is a `keras.Model`: compile options, callbacks, data, files, messages."""

import csv
import warnings

import keras
import numpy as np
import pytest
from helpers.data import CLASSES
from helpers.models import assert_same, classifier, crossentropy, values

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


def test_several_steps_per_execution_train_as_one_does(blobs):
    if BACKEND == "torch":
        with pytest.raises(ValueError, match="`steps_per_execution` must be 1 with the PyTorch backend"):
            final_weights(blobs, steps_per_execution=2)
        return

    assert_close(final_weights(blobs), final_weights(blobs, steps_per_execution=2))


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


def test_a_moving_average_of_weights_ends_in_the_student(blobs):
    plain = final_weights(blobs)
    averaged = final_weights(blobs, lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))

    assert any((p != a).any() for p, a in zip(plain, averaged, strict=True))


def test_gradients_are_clipped_as_the_optimizer_says(blobs):
    start = final_weights(blobs, lambda: keras.optimizers.SGD(0.0))
    clipped = final_weights(blobs, lambda: keras.optimizers.SGD(1.0, global_clipnorm=1e-3))

    moved = np.sqrt(sum(((c - s) ** 2).sum() for c, s in zip(clipped, start, strict=True)))
    assert 0 < moved <= 8 * 1.01e-3  # 8 steps, each of length 1e-3 at most


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


def test_validation_data_do_not_change_what_is_learnt(blobs):
    assert_same(final_weights(blobs), final_weights(blobs, fit_arguments={"validation_data": blobs}))


def test_summary_and_count_params_are_the_students(blobs, capsys):
    student = classifier()
    model = compiled(student, classifier(units=100))

    lines = []
    model.summary(print_fn=lines.append)
    expected = []
    student.summary(print_fn=expected.append)

    assert expected == lines
    assert student.count_params() == model.count_params()
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
    model = compiled(teacher=classifier(units=2000))

    model.export(tmp_path / "served", verbose=False)

    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(blobs[0]), model.predict(blobs[0], verbose=0), atol=1e-6)


def test_weight_files_hold_the_student_alone(blobs, tmp_path):
    student = classifier()
    small, large = (compiled(student, classifier(units=units)) for units in (4, 5000))

    for name, model in (("small", small), ("large", large)):
        model.save_weights(tmp_path / f"{name}.weights.h5")

    sizes = [(tmp_path / f"{name}.weights.h5").stat().st_size for name in ("small", "large")]
    assert sizes[0] == sizes[1]
    before = student.get_weights()
    student.set_weights([w * 0 for w in before])
    large.load_weights(tmp_path / "large.weights.h5")
    assert_same(before, student.get_weights())


def test_the_student_is_a_plain_model(blobs, tmp_path):
    student = classifier()
    compiled(student).fit(*blobs, verbose=0)

    student.save(tmp_path / "student.keras")

    assert b"keras_ban" not in (tmp_path / "student.keras").read_bytes()
    assert type(student) is type(keras.saving.load_model(tmp_path / "student.keras"))


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = slice(24 * index, 24 * (index + 1))
        return self.x[rows], self.y[rows]


def as_dataset(kind, x, y):
    if kind == "PyDataset":
        return Batches(x, y), {}
    if kind == "generator":
        return (Batches(x, y)[i % 4] for i in range(8)), {"steps_per_epoch": 4}
    if kind == "tf.data":
        tf = pytest.importorskip("tensorflow")
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(24), {}
    torch = pytest.importorskip("torch")
    tensors = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    return torch.utils.data.DataLoader(tensors, batch_size=24), {}


@pytest.mark.parametrize("kind", ["PyDataset", "generator", "tf.data", "DataLoader"])
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed, but will be ignored:UserWarning")
def test_datasets_of_every_kind_train_as_arrays_do(blobs, kind):
    keras.utils.set_random_seed(5)
    teacher, student = classifier(), classifier()
    data, arguments = as_dataset(kind, *blobs)

    model = compiled(student, teacher)
    model.fit(data, epochs=2, shuffle=False, verbose=0, **arguments)

    assert_close(final_weights(blobs), student.get_weights())


@pytest.mark.parametrize("kind", ["PyDataset", "tf.data"])
def test_datasets_may_bring_soft_targets(blobs, kind):
    x, y = blobs
    keras.utils.set_random_seed(5)
    teacher, student = classifier(), classifier()
    soft_targets = teacher.predict(x, verbose=0)
    if kind == "tf.data":
        tf = pytest.importorskip("tensorflow")
        targets = {"labels": y, "soft_targets": soft_targets}
        data = tf.data.Dataset.from_tensor_slices((x, targets)).batch(24)
    else:
        both = Batches(x, y)
        both.__class__ = type(
            "Paired",
            (Batches,),
            {
                "__getitem__": lambda self, i: (
                    x[24 * i : 24 * i + 24],
                    {"labels": y[24 * i : 24 * i + 24], "soft_targets": soft_targets[24 * i : 24 * i + 24]},
                )
            },
        )
        data = both
    model = keras_ban.Distiller(student=student)
    model.compile(keras.optimizers.SGD(0.1), crossentropy(), metrics=["accuracy"])
    model.fit(data, epochs=2, shuffle=False, validation_data=data, verbose=0)

    assert_close(final_weights(blobs), student.get_weights())


def test_validation_split_works_with_soft_targets_too(blobs):
    x, y = blobs
    targets = {"labels": y, "soft_targets": classifier().predict(x, verbose=0)}
    model = keras_ban.Distiller(student=classifier())
    model.compile("sgd", crossentropy(), metrics=["accuracy"])

    assert "val_accuracy" in model.fit(x, targets, validation_split=0.25, verbose=0).history


def test_train_on_batch_takes_the_same_step_as_fit(blobs):
    x, y = blobs
    keras.utils.set_random_seed(5)
    teacher, student = classifier(), classifier()
    model = compiled(student, teacher)

    for _ in range(2):
        for i in range(4):
            model.train_on_batch(x[24 * i : 24 * (i + 1)], y[24 * i : 24 * (i + 1)])

    assert_close(final_weights(blobs), student.get_weights())


# What is refused, and how.


@pytest.mark.parametrize("label_weight", [-0.1, 1.1, float("nan"), "0.5", None, True])
def test_a_label_weight_outside_zero_and_one_is_refused(label_weight):
    with pytest.raises(ValueError, match=r"`label_weight` must be a number in \[0, 1\], received: "):
        keras_ban.Distiller(student=classifier(), teacher=classifier(), label_weight=label_weight)


@pytest.mark.parametrize("wrong", ["student", "teacher"])
def test_what_is_no_keras_model_is_refused(wrong):
    models = {"student": classifier(), "teacher": classifier(), wrong: lambda x: x}
    with pytest.raises(TypeError, match=f"`{wrong}` must be a `keras.Model`, received: <function"):
        keras_ban.Distiller(**models)


def test_student_and_teacher_cannot_be_given_by_position():
    with pytest.raises(TypeError, match="positional"):
        keras_ban.Distiller(classifier(), classifier())


def test_a_model_cannot_teach_itself():
    model = classifier()
    with pytest.raises(ValueError, match="are the same model. For a new student use `keras_ban.reborn"):
        keras_ban.Distiller(student=model, teacher=model)


def test_a_student_cannot_share_trainable_weights_with_its_teacher():
    teacher = classifier()
    student = keras.Sequential([keras.Input((8,)), *teacher.layers])
    with pytest.raises(ValueError, match="share weights that would be trained"):
        keras_ban.Distiller(student=student, teacher=teacher)


def test_layers_that_move_without_gradients_cannot_be_shared():
    norm = keras.layers.BatchNormalization(center=False, scale=False)
    student, teacher = (keras.Sequential([keras.Input((8,)), norm, keras.layers.Dense(CLASSES)]) for _ in range(2))
    with pytest.raises(ValueError, match=r"share weights that would be trained.*\(layer\)"):
        keras_ban.Distiller(student=student, teacher=teacher)


def test_shared_layers_cannot_be_thawed_later():
    shared = keras.layers.Dense(8, trainable=False)
    student, teacher = (keras.Sequential([keras.Input((8,)), shared, keras.layers.Dense(CLASSES)]) for _ in range(2))
    model = compiled(student, teacher)
    shared.trainable = True
    with pytest.raises(ValueError, match="share weights that would be trained"):
        model.compile("sgd", crossentropy())


def test_a_student_may_share_frozen_layers_with_its_teacher(blobs):
    shared = keras.layers.Dense(8, trainable=False)
    student, teacher = (keras.Sequential([keras.Input((8,)), shared, keras.layers.Dense(CLASSES)]) for _ in range(2))
    before = values(teacher)

    compiled(student, teacher).fit(*blobs, verbose=0)

    assert_same(before, values(teacher))


def test_outputs_of_other_shapes_are_refused_at_once_with_both_shapes():
    other = keras.Sequential([keras.Input((8,)), keras.layers.Dense(CLASSES + 2)])
    with pytest.raises(ValueError, match=r"\(None, 5\), the student's outputs \(None, 3\)"):
        keras_ban.Distiller(student=classifier(), teacher=other)


def test_outputs_of_other_shapes_that_show_only_later_are_refused_before_a_weight_moves(blobs):
    student = classifier()
    before = student.get_weights()
    teacher = keras.Sequential([keras.layers.Dense(CLASSES + 2)])

    with pytest.raises(ValueError, match=r"\(32, 5\), the student's outputs \(.*3\)"):
        compiled(student, teacher).fit(*blobs, verbose=0)

    assert_same(before, student.get_weights())


@pytest.mark.parametrize("loss", ["kl_divergence", keras.losses.kl_divergence, [None, "mse"]])
def test_a_distillation_loss_that_is_no_loss_object_is_refused(loss):
    with pytest.raises(TypeError, match="`distillation_loss` must be a `keras.losses.Loss` instance"):
        keras_ban.Distiller(student=classifier(), teacher=classifier(), distillation_loss=loss)


def test_distillation_losses_that_are_all_none_are_refused():
    with pytest.raises(ValueError, match="use `label_weight=1`"):
        keras_ban.Distiller(student=classifier(), teacher=classifier(), distillation_loss=[None, None])


def test_fit_before_compile_is_refused(blobs):
    with pytest.raises(ValueError, match=r"You must call `compile\(\)`"):
        keras_ban.Distiller(student=classifier(), teacher=classifier()).fit(*blobs)


def test_compile_without_a_loss_for_labels_that_have_a_weight_is_refused():
    with pytest.raises(ValueError, match="label_weight=0.5. Pass one, or train on the teacher alone"):
        keras_ban.Distiller(student=classifier(), teacher=classifier()).compile("adam")


def test_missing_labels_are_refused(blobs):
    with pytest.raises(ValueError, match="The data brings no labels"):
        compiled().fit(blobs[0], verbose=0)


@pytest.mark.parametrize("x", [np.zeros((0, 8)), None, [np.zeros((0, 8)), np.zeros((0, 8))], []])
def test_empty_data_are_refused(x):
    with pytest.raises(ValueError, match=r"`x` (holds no examples|is (None|\[\]))"):
        compiled().fit(x, np.zeros(0, "int32"))


def test_a_dataset_without_batches_is_refused():
    with pytest.raises(ValueError, match="`x` (yields no batch|holds no examples)"):
        compiled(teacher=keras.Sequential([keras.layers.Dense(CLASSES)])).fit(iter([]), verbose=0)


@pytest.mark.parametrize("label", [-1, CLASSES, 10**6])
def test_labels_outside_the_classes_are_refused(blobs, label):
    x, y = blobs
    y = y.copy()
    y[7] = label
    with pytest.raises(ValueError, match=rf"labels must lie in \[0, 2\], but `y` holds 1 others, {label} for instance"):
        compiled().fit(x, y)


def test_labels_that_the_loss_ignores_are_no_error(blobs):
    x, y = blobs
    y = np.where(y == 0, -1, y)
    model = keras_ban.Distiller(student=classifier(), teacher=classifier())
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1))

    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"][0])


@pytest.mark.parametrize("loss", [crossentropy(), "sparse_categorical_crossentropy"])
def test_float_labels_where_whole_numbers_are_wanted_are_refused(blobs, loss):
    x, y = blobs
    model = keras_ban.Distiller(student=classifier(), teacher=classifier())
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match=r"wants labels as whole numbers, received `y` of dtype float32"):
        model.fit(x, y.astype("float32"))
    with pytest.raises(ValueError, match="They look one-hot: use `CategoricalCrossentropy`"):
        model.fit(x, np.eye(CLASSES)[y])


def test_probabilities_where_logits_are_declared_give_one_warning(blobs):
    model = compiled(teacher=classifier(activation="softmax"))

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        model.fit(*blobs, epochs=2, verbose=0)
        model.fit(*blobs, verbose=0)

    assert 1 == len([w for w in warned if "look like probabilities" in str(w.message)])


def test_logits_where_probabilities_are_declared_are_refused(blobs):
    model = keras_ban.Distiller(
        student=classifier(activation="softmax"),
        teacher=classifier(),
        distillation_loss=KnowledgeDistillation(from_logits=False),
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy())

    with pytest.raises(ValueError, match="takes probabilities .* they range from"):
        model.fit(*blobs, verbose=0)


def test_a_teacher_whose_outputs_are_not_finite_is_refused(blobs):
    teacher = classifier()
    teacher.set_weights([w * np.nan for w in teacher.get_weights()])

    with pytest.raises(ValueError, match="hold NaN or inf"):
        compiled(teacher=teacher).fit(*blobs, verbose=0)


def test_no_teacher_and_no_soft_targets_is_refused(blobs):
    model = keras_ban.Distiller(student=classifier())
    model.compile("sgd", crossentropy())

    with pytest.raises(ValueError, match="has no teacher, and the data brings no soft targets"):
        model.fit(*blobs, verbose=0)


@pytest.mark.parametrize("name", ["teacher", "label_weight", "distillation_loss"])
def test_what_a_compiled_step_would_not_notice_cannot_be_changed(name):
    with pytest.raises(AttributeError):
        setattr(compiled(), name, 0.1)


def test_a_loss_for_an_output_that_is_not_there_is_refused_by_name():
    losses = {"elsewhere": KnowledgeDistillation()}

    with pytest.raises(ValueError, match=r"`distillation_loss` does not .* of the names \['elsewhere'\]"):
        keras_ban.Distiller(student=classifier(), teacher=classifier(), distillation_loss=losses)


class OwnSteps(keras.Sequential):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return 100 * super().compute_loss(x, y, y_pred, sample_weight)


def test_steps_of_the_students_own_are_said_not_to_be_called():
    with pytest.warns(UserWarning, match="OwnSteps, has `compute_loss` of its own, which no Distiller calls"):
        keras_ban.Distiller(student=OwnSteps([keras.Input((8,)), keras.layers.Dense(CLASSES)]))
