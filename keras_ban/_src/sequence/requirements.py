"""Checks of the arguments of a `BornAgainSequence` and its `fit`, made before training."""

import keras

from keras_ban._src import checks
from keras_ban._src.data.unlabeled import as_unlabeled
from keras_ban._src.distillation.unlabeled import check_losses
from keras_ban._src.history.controls import LONGER
from keras_ban._src.losses.keras_distillation import cannot_act, is_of_keras_distillation
from keras_ban._src.sequence import stretched_schedule
from keras_ban._src.sequence.per_generation import use_teachers
from keras_ban._src.targets import augmented_views, label_mix, top_k_rows

_LARGER_IS_BETTER = ("acc", "auc", "f1", "fbeta", "f_beta", "precision", "recall")


def check_distill_ensemble(distill_ensemble, label_weight):
    """Return the flag. Raise `ValueError` if the ensemble's student would not use its teacher."""
    distill_ensemble = checks.check_flag("distill_ensemble", distill_ensemble)
    if distill_ensemble and keras.tree.flatten(label_weight)[-1] == 1:
        raise ValueError(
            "The ensemble's student has the last label weight, which is 1: it would not hear its teacher. Leave out "
            "`distill_ensemble`, or use a last label weight of less than 1."
        )
    return distill_ensemble


def check_views(views, augmentation, soft_targets):
    """Return `views`. Raise `ValueError` if they contradict the augmentation or `soft_targets`."""
    if views is not None or soft_targets == "cached":
        augmented_views.check_makes_views(augmentation)
    if views is None:
        if augmentation is not None and soft_targets == "cached":
            raise ValueError(
                "Cached soft targets are of the views that the teacher saw: say how many of each example, for instance "
                "`views=4`, or use `soft_targets='online'`."
            )
        return None
    if augmentation is None or soft_targets == "online":
        raise ValueError(
            f"`views={views}` are what `augmentation` makes for cached soft targets. Received "
            f"augmentation={augmentation!r}, soft_targets={soft_targets!r}."
        )
    return checks.check_count("views", views)


def check_feature_matching(feature_matching, sequence):
    """Return `feature_matching`. Raise `ValueError` unless the teacher is a single model that runs at each step."""
    if feature_matching is None:
        return None
    if sequence.soft_targets == "cached" or sequence.views is not None or sequence.top_k is not None:
        raise ValueError(
            "`feature_matching` needs the teacher at each step, but cached soft targets hold only its outputs. Leave "
            f"out soft_targets={sequence.soft_targets!r}, views={sequence.views!r}, top_k={sequence.top_k!r}."
        )
    if sequence.teach_from == "ensemble" or sequence.distill_ensemble or sequence.soften_teachers:
        raise ValueError(
            "`feature_matching` needs a teacher that has layers, and an ensemble has none of its own: leave out "
            "`teach_from='ensemble'`, `distill_ensemble` and `soften_teachers`, which makes an ensemble of the teacher."
        )
    return feature_matching


def check_soften_teachers(soften_teachers, sequence):
    """Return the flag. Raise `ValueError` if no teacher is used, or the augmentation mixes examples."""
    if not checks.check_flag("soften_teachers", soften_teachers):
        return False
    if not use_teachers(sequence.label_weight):
        raise ValueError("`soften_teachers` has no effect with label_weight=1, with which no student uses its teacher.")
    if label_mix.mixes(sequence.augmentation):
        raise ValueError(
            f"`soften_teachers` looks at how likely the labels of training examples are, and {sequence.augmentation!r} "
            "mixes them. Calibrate a trained teacher with `EnsembleModel.calibrate`, and pass it to `fit` as `teacher`."
        )
    return True


def check_top_k(top_k, soft_targets, distillation_loss):
    """Return `top_k`. Raise `ValueError` if no soft targets are stored, or they are not of a softmax."""
    if top_k is None:
        return None
    if soft_targets == "online":
        raise ValueError(f"`top_k={top_k}` is about stored soft targets, but with soft_targets='online' none are.")
    if distillation_loss is not None:
        top_k_rows.check_loss(distillation_loss)
    return checks.check_count("top_k", top_k)


def check_data(data, validation_data, views):
    """Raise `ValueError` if the data cannot be read once per generation, or with one view per epoch."""
    for name, each in (("x", data), ("validation_data", validation_data)):
        if each is not None and each.read_once:
            raise ValueError(
                f"`{name}` is a generator or an iterator, which is used up after one generation. Pass arrays, a "
                "`keras.utils.PyDataset`, a `tf.data.Dataset` or a torch `DataLoader`."
            )
    if views is not None and not data.takes_views:
        raise ValueError(f"`views` are for arrays or a `keras.utils.PyDataset`, received: {data.dataset!r}.")


def check_unlabeled(sequence, unlabeled, data, label_loss, class_weight, models):
    """Return `unlabeled` as data, see `as_unlabeled`. Raise `ValueError` if students cannot be trained on them."""
    for label_weight in keras.tree.flatten(sequence.label_weight):
        check_losses(sequence.distillation_loss, label_loss, label_weight, sequence.augmentation)
    unlabeled = as_unlabeled(unlabeled, data, class_weight, models)
    must_cache = sequence.views is not None or sequence.soft_targets == "cached"
    if must_cache and (data.yields_batches or unlabeled.yields_batches):
        raise ValueError(
            "With `unlabeled`, soft targets are cached for arrays only, and one of `x` and `unlabeled` is a dataset. "
            "Use `soft_targets='online'`, without `views`."
        )
    return unlabeled


def check_weights(sequence, data, class_weight):
    """Raise `ValueError` if there are weights, and a distillation loss or stored soft targets do not go with them."""
    if data.yields_batches and class_weight is not None and sequence.soft_targets == "cached":
        raise ValueError(
            "`class_weight` does not go with a dataset and `soft_targets='cached'`: let the dataset yield "
            "`sample_weight`, or use `soft_targets='online'`."
        )
    losses = [loss for loss in keras.tree.flatten(sequence.distillation_loss) if is_of_keras_distillation(loss)]
    if not losses or not use_teachers(sequence.label_weight):
        return
    if class_weight is not None or data.first_batch()[2] is not None:
        raise ValueError(cannot_act(losses[0], "`sample_weight` and `class_weight`"))


def check_lengths(controls, teacher, epochs, compile_arguments, callbacks):
    """Warn of schedules that may end before a training.

    Raise `ValueError` if a schedule cannot have the length of a generation, or the cost of controls is not known.
    `epochs` is as `check_epochs` returns it, the other arguments are as in `BornAgainSequence`.
    """
    if controls and teacher is not None:
        raise ValueError(
            "`controls` cost as much as the generations, but what a given `teacher` cost is not known. Leave out "
            "`teacher`, so that generation 0 is trained, or make a sequence without `controls`."
        )
    if isinstance(epochs, list):
        stretched_schedule.check(compile_arguments, epochs, 0 if teacher is None else 1)
    if LONGER in controls:
        stretched_schedule.warn_of_others("The longer control may not be fair", compile_arguments, callbacks)
    elif isinstance(epochs, list):
        stretched_schedule.warn_of_others("Generations differ in length", compile_arguments, callbacks)


def check_monitor(monitor, probe, scorer):
    """Raise `ValueError` if `evaluate` does not report the monitor, or reports several values."""
    found = scorer.evaluate(probe, steps=1)
    known = sorted(name for name, value in found.items() if isinstance(value, float))
    if monitor not in known:
        several = " It has several values: give the metric an average, as `F1Score(average='macro')`."
        raise ValueError(
            f"`monitor` must be one of {known}, received: {monitor!r}.{several if monitor in found else ''}"
        )


def resolve_mode(mode, monitor):
    if not isinstance(monitor, str):
        raise ValueError(f"`monitor` must be the name of a metric, 'val_loss' for instance, received: {monitor!r}.")
    if checks.check_choice("mode", mode, ("auto", "min", "max")) != "auto":
        return mode
    return "max" if any(word in monitor.lower() for word in _LARGER_IS_BETTER) else "min"
