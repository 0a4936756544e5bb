"""The tests of Keras that cannot hold for a Distiller or an ensemble, and why."""

import dataclasses

DISTILLER, ENSEMBLE = ("distiller",), ("ensemble",)
BACKENDS = ("torch", "tensorflow", "jax")


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Tests that must fail, and the error (a regular expression) with which they do."""

    reason: str
    error: str
    tests: tuple
    models: tuple = DISTILLER + ENSEMBLE
    backends: tuple = BACKENDS


def _named(start, *ends):
    return tuple(f"{start}_{end}" for end in ends)


LEFT_OUT = (
    LeftOut(
        "Keras clones with these arguments functional and Sequential models alone.",
        "only supported for Sequential models or Functional models",
        (
            *_named("cloning_test.py::test_custom_clone_function", "mlp_functional", "cnn_functional", "sequential"),
            "cloning_test.py::test_call_fn",
            "cloning_test.py::test_recursive",
            "cloning_test.py::test_recursive_multi_level",
        ),
    ),
    LeftOut(
        "A Distiller and an ensemble have no symbolic inputs.",
        "has no attribute 'inputs?'|has no defined input",
        (
            *_named(
                "cloning_test.py::test_input_tensors", "cnn_functional", "cnn_sequential", "cnn_sequential_noinputlayer"
            ),
            "cloning_test.py::test_structured_io_cloning",
        ),
    ),
    LeftOut(
        "Their configuration names the class of the model within, which Keras must be able to find.",
        "Could not deserialize 'keras.src.models.cloning_test.ExampleModel'",
        ("cloning_test.py::test_cloning_correctness_subclassed",),
    ),
    LeftOut(
        "The test gives the configuration of a Distiller or an ensemble to the class of the model within.",
        "Unable to revive model from config",
        ("model_test.py::test_reviving_functional_from_config_custom_model",),
    ),
    LeftOut(
        "A Distiller raises a `ValueError` with the names of the outputs, not a `KeyError`.",
        "`loss` is a dict with the keys .* Expected keys",
        ("model_test.py::test_functional_dict_outputs_dict_losses_invalid_keys",),
        DISTILLER,
    ),
    LeftOut(
        "A model within does not compute the loss. A Distiller warns of it.",
        "expected <class 'list'>|Expected an instance of list",
        ("model_test.py::test_functional_list_outputs_with_custom_compute_loss",),
    ),
    LeftOut(
        "A model within does not compute the loss, in which it updates a metric.",
        "'custom'",
        (
            "trainer_test.py::test_metric_update_in_compute_loss",
            "trainer_test.py::test_fwd_pass_loss_presence_in_compute_loss",
            "trainer_test.py::test_evaluate_with_custom_compute_loss",
            "trainer_test.py::test_compute_loss_no_training_backwards_compatibility",
        ),
    ),
    LeftOut(
        "The test counts metrics, and a Distiller has one more, `label_loss`.",
        "3 != 2|1 != 0",
        (
            "trainer_test.py::test_nested_trainer_metrics",
            "trainer_test.py::test_nested_trainer_metrics_without_compile",
            "trainer_test.py::test_multiple_compiles",
        ),
        DISTILLER,
    ),
    LeftOut(
        "A Distiller refuses a generator that is used up after one of several epochs. Keras ends the training early.",
        "is used up after one of 3 epochs",
        ("trainer_test.py::test_fit_with_data_adapter_generator",),
        DISTILLER,
    ),
    LeftOut(
        "The test counts variables, and an ensemble has three more: its weights and its temperature.",
        "'average': .* != {}|9 != 6|19 != 16",
        (*_named("model_test.py::test_quantize", "int8", "float8"), "model_test.py::test_get_state_tree"),
        ENSEMBLE,
    ),
    LeftOut(
        "Ragged tensors are refused, with the advice to pad them.",
        "`x` is a ragged tensor",
        _named("trainer_test.py::test_trainer_with_raggeds", "model", "layer", "functional"),
        backends=("tensorflow",),
    ),
    LeftOut(
        "A Distiller refuses labels that hold inf, before training.",
        "`y` holds NaN or inf",
        (
            "terminate_on_nan_test.py::test_terminate_on_nan_graceful_stop",
            "terminate_on_nan_test.py::test_terminate_on_nan_raise_error_raises_error",
            "terminate_on_nan_test.py::test_raise_error_terminate_does_not_trigger_on_train_end",
            "terminate_on_nan_test.py::test_raise_error_terminate_preserves_backup",
            "terminate_on_nan_test.py::test_raise_error_terminate_stops_on_later_batch",
        ),
        DISTILLER,
    ),
    LeftOut(
        "Keras freezes the teacher. We never change it, not even its `trainable`: its weights are not among ours.",
        "True is not false",
        ("distiller_test.py::test_distiller_initialization", "distiller_test.py::test_teacher_freezing"),
        DISTILLER,
    ),
    LeftOut(
        "What is not a model is a `TypeError`.",
        "`teacher` must be a `keras.Model`",
        ("distiller_test.py::test_model_compatibility_validation",),
        DISTILLER,
    ),
    LeftOut(
        "After training, the test looks at a private attribute of Keras's Distiller.",
        "has no attribute '_teacher_feature_extractor'",
        (
            "distillation_loss_test.py::test_feature_distillation_end_to_end",
            "distillation_loss_test.py::test_multi_distillation_loss_distillation_end_to_end",
        ),
        DISTILLER,
    ),
)
