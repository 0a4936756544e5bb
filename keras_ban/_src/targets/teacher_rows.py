"""Convert a teacher's outputs to the rows that are stored."""

import keras
import numpy as np

from keras_ban._src import backend, checks
from keras_ban._src.backend import process_group
from keras_ban._src.data.fingerprints import example_keys, layer_fingerprint
from keras_ban._src.data.leaves import size_of
from keras_ban._src.data.model_inputs import teacher_fingerprint
from keras_ban._src.data.preprocessing import inputs_in_steps, predict_on_batch
from keras_ban._src.files import model_file
from keras_ban._src.losses.meaning import of_model
from keras_ban._src.losses.temperature import softmax
from keras_ban._src.targets import augmented_views, key_index, top_k_rows
from keras_ban._src.targets.function_teacher import FunctionTeacher, as_floats

# Format 3 has other fingerprints of the examples. Rows by key have no fingerprints, and still have format 2.
FORMAT, FORMAT_BY_KEY = 3, 2
HASHES_OF_FORMAT = {2: 1, 3: 2}


def as_teacher(teacher):
    """Return a trained model as it is, and a function as a `FunctionTeacher`. Raise an error for anything else."""
    if isinstance(teacher, keras.Model):
        if not teacher.built:
            raise ValueError("`teacher` has no weights yet: it must be a trained model.")
        return teacher
    is_layer = isinstance(teacher, keras.layers.Layer)
    if not callable(teacher) or isinstance(teacher, type) or is_layer:
        raise TypeError(
            "`teacher` must be a `keras.Model`, or a function that takes a batch of NumPy arrays and returns outputs "
            f"`(batch, ..., classes)`, received: {teacher!r} (of type {type(teacher).__name__})."
            f"{checks.MODEL_OF_LAYER if is_layer else ''}"
        )
    if backend.is_of_library(teacher, "torch", "Module"):
        raise TypeError(
            f"`teacher` is a {type(teacher).__name__}, a module of torch, which takes tensors. Call `module.eval()`, "
            "and pass a function of a NumPy batch: `lambda x: module(torch.from_numpy(x))`."
        )
    checks.check_takes_one("teacher", teacher, "a batch of inputs", "Write `lambda x: ...`.")
    return FunctionTeacher(teacher)


def check_views(augmentation, views):
    """Return `(augmentation, number of views)`, `None` without. Raise an error if the arguments contradict."""
    if augmentation is None:
        if views is not None:
            raise ValueError(f"`views={views}` need an `augmentation`: pass the layer that makes them.")
        return None, None
    augmentation = augmented_views.check_augmentation(augmentation)
    augmented_views.check_makes_views(augmentation)
    return augmentation, 1 if views is None else checks.check_count("views", views)


def keys_of_batch(x, key):
    """`(uint64 (batch,), texts or None, kind)` of the keys of the data, or without keys of fingerprints (no kind)."""
    if key is None:
        return example_keys(x), None, None
    keys, texts = key_index.hashed(key)
    size = size_of(x)
    if len(keys) != size:
        raise ValueError(f"Each example must have a key, but a batch brings {size} examples and {len(keys)} keys.")
    return keys, texts, key_index.kind_of(texts)


def look(teacher, augmentation=None, views=None):
    """Return a function of a batch `x` and its keys that returns the teacher's outputs `(batch, ..., classes)`.

    With an `augmentation`, outputs are `(batch, views, ..., classes)`. Each of several workers uses its own copy.
    """
    if process_group.shared():
        teacher = teacher if isinstance(teacher, FunctionTeacher) else model_file.on_this_worker(teacher)
        if augmentation is not None:
            original = augmentation
            augmentation = process_group.alone(lambda: type(original).from_config(original.get_config()))
        outputs_of = process_group.alone(lambda: look(teacher, augmentation, views))
        return lambda x, keys: process_group.alone(lambda: outputs_of(x, keys))
    if augmentation is None:
        return lambda x, keys: _outputs_of(teacher, x)
    is_function = isinstance(teacher, FunctionTeacher)
    # Keras makes the views for a function.
    on_views = keras.layers.Identity(autocast=False) if is_function else teacher
    on_views = augmented_views.TeacherOnViews(on_views, augmentation)
    generators = len(augmented_views.seed_states(augmentation))

    def outputs_of_views(x, keys):
        x = inputs_in_steps(teacher, x)
        seeds = (augmented_views.view_seeds(keys, view, generators) for view in range(views))
        if is_function:
            return np.stack([teacher(predict_on_batch(on_views, (x, each))) for each in seeds], axis=1)
        return np.stack([_outputs_of(on_views, (x, each)) for each in seeds], axis=1)

    return outputs_of_views


def build_augmentation(augmentation, views, x, keys):
    """Build the augmentation on a first batch. Raise an error if seeds do not determine its views."""
    x, keys = keras.tree.map_structure(lambda leaf: leaf[:4], x), keys[:4]
    error = augmented_views.build(augmentation, x)
    if error is not None:
        advice = "Replace `RandomCrop` by `RandomTranslation` on padded images."
        raise ValueError(f"`augmentation` cannot make views under JAX, which cannot compile it. {advice}") from error
    generators = len(augmented_views.seed_states(augmentation))
    if generators == 0 and views > 1:
        raise ValueError(
            f"`augmentation` holds no `keras.random.SeedGenerator`, so all {views} views of an example would be the "
            "same. Draw from one that the layer holds, or use `views=1`."
        )
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    seeds = keras.ops.convert_to_tensor(augmented_views.view_seeds(keys, 0, generators))
    first, again = (keras.tree.flatten(augmented_views.views(augmentation, x, seeds)) for _ in range(2))
    same = all(np.array_equal(*map(keras.ops.convert_to_numpy, pair)) for pair in zip(first, again, strict=True))
    if not same or augmented_views.draws_from_outside(augmentation, x):
        raise ValueError(
            "`augmentation` gives another view each time, from the same seeds: it draws from a global random state. "
            "Give its layers a `seed`, or draw from a `keras.random.SeedGenerator` that the layer holds."
        )


def _outputs_of(teacher, x):
    if isinstance(teacher, FunctionTeacher):
        return teacher(x)
    outputs = predict_on_batch(teacher, x)
    if keras.tree.is_nested(outputs):
        raise ValueError(
            "The teacher gives several outputs, and soft targets are of one. Use a teacher with one output, "
            "`keras.Model(teacher.inputs, teacher.outputs[0])`, or a `Distiller(teacher=...)` without soft targets."
        )
    return as_floats(
        np.asarray(outputs),
        "The teacher's outputs hold NaN or inf. Check that it is trained, and that `x` is free of NaN and scaled as in "
        "its training.",
    )


def describe(teacher, outputs, top_k, dtype, from_logits, form, augmentation, views, kind):
    """Return the description of the rows, as plain data. `outputs` are those of a first batch, from `look`."""
    classes = outputs.shape[-1] if outputs.ndim > 1 else 0
    if (top_k is not None and top_k > classes) or outputs.ndim < 2:
        raise ValueError(
            "`top_k` must be at most the number of classes, the last axis of the teacher's outputs. Received "
            f"top_k={top_k}; the outputs have shape {outputs.shape}."
        )
    of_function = isinstance(teacher, FunctionTeacher)
    if of_function:
        from_logits = teacher.gives_logits(outputs, from_logits)
    elif from_logits is None:
        from_logits = _gives_logits(teacher, outputs)
    # Not at the top: it imports this file.
    import keras_ban

    return {
        "format": FORMAT if kind is None else FORMAT_BY_KEY,
        "keyed": kind,
        "version": keras_ban.__version__,
        "classes": classes,
        "top_k": top_k,
        "dtype": dtype or ("float32" if top_k is None else "float16"),
        "from_logits": bool(from_logits),
        "teacher_name": teacher.name,
        "teacher_fingerprint": None if of_function else teacher_fingerprint(teacher),
        "example_form": form,
        "views": views,
        "augmentation_fingerprint": None if views is None else layer_fingerprint(augmentation),
        "generators": None if views is None else len(augmented_views.seed_states(augmentation)),
    }


def _gives_logits(teacher, outputs):
    """Whether a teacher gives logits, according to its last layer, or else to the range of its outputs."""
    last = of_model(teacher)
    known = None if keras.tree.is_nested(last) else last.meaning.from_logits
    return known if known is not None else not ((outputs >= -1e-6) & (outputs <= 1 + 1e-6)).all()


def row_dtype(description):
    if description["top_k"] is None:
        return np.dtype(description["dtype"])
    return top_k_rows.row_dtype(*(description[name] for name in ("classes", "top_k", "from_logits", "dtype")))


def as_rows(outputs, description):
    dtype = row_dtype(description)
    if description["top_k"] is not None:
        return top_k_rows.compress(log_probabilities(outputs, description["from_logits"]), dtype)
    with np.errstate(over="ignore"):
        rows = outputs.astype(dtype)
    if np.isinf(rows[np.isfinite(outputs)]).any():
        raise ValueError(
            f"The teacher's outputs reach {np.abs(outputs[np.isfinite(outputs)]).max():.4g}, which is beyond {dtype}: "
            "use dtype='float32', or top_k, which stores log-probabilities."
        )
    return rows


def log_probabilities(outputs, from_logits):
    """Outputs as logits. Masked classes (-inf) become -1e30."""
    return np.maximum(outputs, -1e30) if from_logits else np.log(np.maximum(outputs, 1e-30))


def largest_difference(outputs, stored, from_logits):
    """Return the largest absolute difference of outputs from stored rows; of top-k rows, that of probabilities."""
    if stored.dtype.names is None:
        with np.errstate(invalid="ignore"):  # -inf on both sides is no difference
            difference = np.where(outputs == stored, 0.0, np.abs(outputs - stored.astype("float64")))
        return float(difference.max())
    logits = log_probabilities(outputs, from_logits)
    probabilities = np.take_along_axis(softmax(logits), stored["indices"].astype("int64"), axis=-1)
    return float(np.abs(probabilities - np.exp(stored[stored.dtype.names[1]].astype("float64"))).max())
