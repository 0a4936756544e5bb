"""Copy layers from a teacher to a student."""

import difflib

import keras

from keras_ban._src import backend, checks, hints
from keras_ban._src.sequence.clones import copy_adapted_state, copy_values


def share_layers(student: keras.Model, teacher: keras.Model, layers: hints.LayerNames) -> keras.Model:
    """Copy the weights of a teacher's layers to a student, and freeze them there.

    In the paper, ResNet students share the first and last layers of their DenseNet teachers (BAN, table 5).

    The student's layers are set to `trainable=False`. As in Keras, a frozen BatchNormalization uses the copied
    statistics, also in training, and does not update them. The state from `adapt` is copied, too. Teacher and student
    share no variables, and the teacher does not change. Recompile the student if it was already compiled.

    Example:

    ```python
    # If both models have layers of these names: keras_ban.share_layers(student, teacher, ["stem", "head"])
    names = {student.layers[0].name: teacher.layers[0].name}  # the first layer of each model
    keras_ban.share_layers(student, teacher, names)
    ```

    Args:
        student: a built `keras.Model`. It is changed.
        teacher: a built and trained `keras.Model`.
        layers: layer names that both models have, or a dict `{student's layer name: teacher's layer name}`. Layers of
            nested models are found, too, if their name is unique in the model.

    Returns:
        The student.

    Raises:
        TypeError: if `student` or `teacher` is not a `keras.Model`, or `layers` is neither a list of names nor a dict.
        ValueError: if a model has no layer or several layers of a name (the message suggests similar names), a layer is
            not built, the weights of two layers differ in shape, or both are the same layer. Nothing is changed then.
    """
    checks.check_model("student", student)
    checks.check_model("teacher", teacher)
    pairs = pair_layers(student, teacher, layers)
    teacher_layers = {id(layer) for layer in backend.flat_layers(teacher)}
    same = [own.name for own, _ in pairs if any(id(layer) in teacher_layers for layer in backend.flat_layers(own))]
    if same:
        raise ValueError(
            f"The layers {same} of the student are the teacher's own, so freezing them would change the teacher. "
            "Create the student with its own layers, for instance with `keras_ban.reborn(teacher)`."
        )
    for own, teachers in pairs:
        copy_values(teachers.weights, own.weights)
        for new, old in zip(backend.flat_layers(own), backend.flat_layers(teachers), strict=False):
            if hasattr(old, "adapt") and type(new) is type(old):
                copy_adapted_state(old, new)
        # One by one, as in `reborn`.
        for layer in backend.flat_layers(own):
            layer.trainable = False
    return student


def pair_layers(student, teacher, layers):
    """Return `[(student's layer, teacher's layer), ...]` with the checks of `share_layers`. Change nothing."""
    pairs = []
    for name, teachers_name in check_shared("layers", layers).items():
        own = _find_layer("student", student, name)
        teachers = _find_layer("teacher", teacher, teachers_name)
        shapes, theirs = ([(w.path.split("/")[-1], tuple(w.shape)) for w in layer.weights] for layer in (own, teachers))
        if [shape for _, shape in shapes] != [shape for _, shape in theirs]:
            raise ValueError(
                f"The student's layer {name!r} has the weights {shapes}, the teacher's layer {teachers_name!r} has "
                f"{theirs}: to be shared, they must have the same shapes in the same order."
            )
        pairs.append((own, teachers))
    return pairs


def check_shared(argument, layers):
    """Return the layers to share as a dict `{student's layer name: teacher's layer name}`."""
    names = checks.layer_names(layers)
    if not names:
        raise TypeError(
            f"`{argument}` must be a list of layer names, or a dict {{student's layer name: teacher's layer name}}, "
            f"with at least one name, received: {layers!r}."
        )
    return names


def _find_layer(whose, model, name):
    layers = backend.flat_layers(model, include_self=False)
    found = [layer for layer in model.layers if layer.name == name] or [layer for layer in layers if layer.name == name]
    if len(found) != 1:
        # Layers that Keras creates for inputs and operations have no weights.
        names = list(dict.fromkeys(layer.name for layer in layers if layer.weights))
        near = difflib.get_close_matches(name, names)
        raise ValueError(
            f"The {whose} {model.name!r} has {f'{len(found)} layers' if found else 'no layer'} named {name!r}. "
            f"{f'Did you mean one of {near}? ' if near else ''}Its layers with weights are {names}. (Name your "
            "layers, as in `Dense(10, name='head')`: Keras numbers unnamed layers anew in each model.)"
        )
    if not found[0].built:
        raise ValueError(
            f"The {whose}'s layer {name!r} has no weights yet: start the {whose} with a `keras.Input`, or call it once."
        )
    return found[0]
