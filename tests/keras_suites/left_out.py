"""The tests of Keras that do not run with a Distiller or an ensemble in place of the model, and why."""

import re

# `(model, pattern of the test's file and name, reason)`. A model of `None` is both.
LEFT_OUT = (
    (None, r"jit", "It compiles for minutes on torch."),
    (None, r"callbacks/(remote_monitor|orbax|tensorboard)", "It needs a package or a service that is not installed."),
    (None, r"cloning_test.*(custom_clone_function|input_tensors|call_fn|shared_layers|recursive)", "Of graphs alone."),
    (None, r"cloning_test.*(structured_io|compiled_model)", "It looks at the layers of a graph."),
    (None, r"cloning_test.*cloning_correctness_(deferred_)?sequential", "It calls `add` of a Sequential model."),
    (None, r"model_test.*reviving", "It revives the model by the class of its student."),
    ("ensemble", r"model_test.*(quantize_(float8|int8)|get_state_tree)", "It looks at layers by their names."),
    (None, r"model_test.*(struct_losses|struct_outputs|single_tensor)", "It asks a graph for its symbolic `outputs`."),
    ("distiller", r"model_test.*invalid_keys", "A Distiller raises `ValueError` with the text of Keras's `KeyError`."),
    ("ensemble", r"single_(list_)?output_[34]$", "It names a symbolic output, which a model without a graph has not."),
    (None, r"trainer_test.*callback_methods_keys", "A Distiller reports `label_loss`, too."),
    (
        "distiller",
        r"trainer_test.*(multiple_compiles|nested_trainer_metrics|on_batch_methods)",
        "It counts the metrics, and a Distiller has `label_loss`, too.",
    ),
    (None, r"trainer_test.*constraints_are_applied", "It looks for an attribute of its own model class."),
    (None, r"trainer_test.*adapter_generator", "A generator is used up after one of three epochs, which is refused."),
)


def reason(model, item):
    """Return why a test is left out, or `None`."""
    name = f"{item.path.parent.name}/{item.path.name}::{item.name}"
    return next((why for of, pattern, why in LEFT_OUT if of in (None, model) and re.search(pattern, name)), None)
