"""Checks of what a `BornAgainSequence` and its `fit` are given, made before anything is trained."""

import keras

from keras_ban._src import checks
from keras_ban._src.data import fit_arguments, trial
from keras_ban._src.data.pairing import size_of, split_at, take
from keras_ban._src.losses.keras_distillation import cannot_act, is_of_keras_distillation
from keras_ban._src.losses.schedules import check_schedule
from keras_ban._src.targets import augmented_views, top_k_rows

_LARGER_IS_BETTER = ("acc", "auc", "f1", "fbeta", "f_beta", "precision", "recall")


def check_label_weights(label_weight, generations):
    """A float or a schedule, for all students; or a list of a float for each, of a callable of the generation too."""
    if isinstance(label_weight, keras.optimizers.schedules.LearningRateSchedule):
        return check_schedule("label_weight", checks.check_label_weight, label_weight)
    if callable(label_weight):
        try:
            label_weight = [label_weight(generation) for generation in range(1, generations + 1)]
        except Exception as error:
            raise ValueError(
                "`label_weight` is callable, so that it is asked for each student's: label_weight(1), and so on to "
                f"label_weight({generations}). It failed: {error!r}."
            ) from error
    if not isinstance(label_weight, (list, tuple)):
        return checks.check_label_weight(label_weight)
    if len(label_weight) != generations:
        raise ValueError(
            "`label_weight` must hold one number for each student, generation 1 first: with "
            f"generations={generations} that are {generations}, received {len(label_weight)}: {label_weight!r}."
        )
    checked = []
    for generation, each in enumerate(label_weight, start=1):
        try:
            checked.append(checks.check_label_weight(each))
        except ValueError as error:
            raise ValueError(f"Generation {generation}: {error}") from None
    return checked


def check_distill_ensemble(distill_ensemble, label_weight):
    """Return it, or raise where the ensemble's student, whose label weight is the last, would not hear its teacher."""
    distill_ensemble = checks.check_flag("distill_ensemble", distill_ensemble)
    last = label_weight[-1] if isinstance(label_weight, list) else label_weight
    if distill_ensemble and last == 1:
        raise ValueError(
            "The ensemble's student has the label weight of the last, which is 1: it would not hear its teacher. "
            "Leave `distill_ensemble` out, or let the last label weight be less than 1."
        )
    return distill_ensemble


def check_views(views, augmentation, soft_targets):
    """Return `views`, which go with an augmentation, or raise."""
    if augmentation is not None:
        augmented_views.check_augmentation(augmentation)
    if views is None:
        if augmentation is not None and soft_targets == "cached":
            raise ValueError(
                "Cached soft targets are of the views that the teacher saw: say how many of each example, "
                "`views=4` for instance, or use `soft_targets='online'`."
            )
        return None
    if augmentation is None or soft_targets == "online":
        raise ValueError(
            f"`views={views}` are what `augmentation` makes, and what soft targets are cached of. Received "
            f"augmentation={augmentation!r}, soft_targets={soft_targets!r}."
        )
    return checks.check_count("views", views)


def check_feature_matching(feature_matching, sequence):
    """Return `feature_matching`, which wants a single model as teacher at each step, or raise."""
    if feature_matching is None:
        return None
    if sequence.soft_targets == "cached" or sequence.views is not None or sequence.top_k is not None:
        raise ValueError(
            "`feature_matching` needs the teacher at each step, and soft targets that are cached, of views too, hold "
            f"its outputs alone. Received soft_targets={sequence.soft_targets!r}, views={sequence.views!r}, "
            f"top_k={sequence.top_k!r}: leave them out."
        )
    if sequence.teach_from == "ensemble" or sequence.distill_ensemble:
        raise ValueError(
            "`feature_matching` needs a teacher that has layers, and an ensemble has none of its own: leave "
            "`teach_from='ensemble'` and `distill_ensemble` out."
        )
    return feature_matching


def check_top_k(top_k, soft_targets, distillation_loss):
    """Return it, a whole number or `None`, or raise `ValueError` where nothing is kept, or not of a softmax."""
    if top_k is None:
        return None
    if soft_targets == "online":
        raise ValueError(
            f"`top_k={top_k}` is about soft targets that are kept, and with soft_targets='online' none are: leave one "
            "of the two out."
        )
    top_k_rows.check_loss(distillation_loss)
    return checks.check_count("top_k", top_k)


def check_data(x, validation_data, views):
    """Raise where the data cannot be read once a generation, or not be told the view."""
    for name, data in (("x", x), ("validation_data", validation_data)):
        if hasattr(data, "__next__"):
            raise ValueError(
                f"`{name}` is a generator or an iterator, which is used up after one generation. Pass arrays, a "
                "`keras.utils.PyDataset`, a `tf.data.Dataset` or a torch `DataLoader`, which can be iterated again."
            )
    checks.check_not_empty(x)
    if views is not None and checks.is_dataset(x) and not isinstance(x, keras.utils.PyDataset):
        raise ValueError(
            f"`views` are for arrays or a `keras.utils.PyDataset`, which can be told the epoch's view; received: {x!r}."
        )


def check_weights(sequence, x, sample_weight, class_weight):
    """Raise where a student's distillation loss cannot be weighted, though there are weights."""
    losses = [loss for loss in keras.tree.flatten(sequence.distillation_loss) if is_of_keras_distillation(loss)]
    if not losses or all(each == 1 for each in keras.tree.flatten(sequence.label_weight)):
        return
    in_data = checks.first_batch(x)[3] if checks.is_dataset(x) else None
    if sample_weight is not None or class_weight is not None or in_data is not None:
        raise ValueError(cannot_act(losses[0], "`sample_weight` and `class_weight`"))


def check_fits(model, teacher, x, y, sample_weight, validation_data):
    """Raise where a compiled model cannot be trained, or measured, or its teacher asked, on data of this form."""
    if not model.built:
        return  # Its data build it.
    batch = checks.first_batch(x, y, sample_weight)[1:]
    if isinstance(batch[1], dict) and "soft_targets" in batch[1]:
        raise ValueError(
            "`y` brings soft targets, but a sequence asks each generation's teacher itself. Pass the labels alone; "
            "soft targets of another teacher go with a `Distiller`."
        )
    trial.check_fits(model, *batch)
    if teacher is not None:
        trial.check_fits(teacher, batch[0])
    if validation_data is not None:
        trial.check_validation(model, validation_data, batch)


def check_labels(x, y, loss, model, needed):
    """Of arrays: raise where there are no labels though they are needed, or where they cannot be meant for the loss."""
    if checks.is_dataset(x) or (y is None and not needed):
        return
    if y is None:
        raise ValueError(
            "The data brings no labels. Generation 0 needs them, and so does each student whose label weight is not 0: "
            "pass `y`, or a trained `teacher` and `label_weight=0`."
        )
    checks.check_labels(y, loss, model)
    fit_arguments.check_label_values("y", y, loss)


def check_monitor(monitor, probe, scorer):
    """Raise, before any training, where the monitor is none of the names that `evaluate` gives."""
    known = sorted(scorer.evaluate(probe, steps=1))
    if monitor not in known:
        raise ValueError(
            f"`monitor` must be one of {known}, which are measured on the validation data, received: {monitor!r}."
        )


def resolve_mode(mode, monitor):
    if not isinstance(monitor, str):
        raise ValueError(f"`monitor` must be the name of a metric, 'val_loss' for instance, received: {monitor!r}.")
    if checks.check_choice("mode", mode, ("auto", "min", "max")) != "auto":
        return mode
    return "max" if any(word in monitor.lower() for word in _LARGER_IS_BETTER) else "min"


def split_off_validation(x, y, sample_weight, validation_split):
    """As Keras does it: the last part of the arrays, before any shuffling."""
    if checks.is_dataset(x):
        raise ValueError("`validation_split` is for arrays; pass `validation_data` with a dataset.")
    if y is None:
        raise ValueError("`validation_split` keeps labelled examples to measure on, but the data brings no labels.")
    at = split_at(size_of(x), validation_split)

    def part(which):
        return take((x, y, sample_weight), which)

    x_val, y_val, weight_val = part(slice(at, None))
    return part(slice(0, at)), (x_val, y_val) if weight_val is None else (x_val, y_val, weight_val)
