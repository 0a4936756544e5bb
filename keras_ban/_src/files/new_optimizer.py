"""The optimizer of a trained model: its configuration, without the variables that training would need.

An optimizer such as Adam has two variables for each weight. A model that is not trained further needs none of them. But
Keras builds the optimizer of each model that it loads, and warns if the file has other variables. So a file gets those
of a new optimizer. Those that have one value take no space in it.
"""

import functools
import warnings

import keras

from keras_ban._src import backend

# Keras refuses to read a variable of more bytes from a file that does not hold them.
_MOST_BYTES = 2**32
# Marks the variables of a new optimizer in a file.
_NEW = "keras_ban_new"


def leave_unbuilt(model):
    """Let a model that was just compiled have an optimizer without variables for the weights, until it is trained.

    The model can be saved and trained as if its optimizer was built.
    """
    optimizer = model.optimizer
    optimizers = [optimizer, *_within(optimizer)]
    if len(optimizers) > 1 and optimizers[1:] != [getattr(optimizer, "inner_optimizer", None)]:
        # One that divides the weights among others.
        optimizer.build(model.trainable_variables)
        return
    for each in optimizers:
        each.save_own_variables = functools.partial(_save, each, model)
        each.load_own_variables = functools.partial(_load, each, model)
    model.make_train_function = functools.partial(_make_train_function, model, optimizer)
    for name in ("evaluate", "test_on_batch"):
        setattr(model, name, functools.partial(_call_with_unbuilt, model, optimizer, name))


def configuration_of(optimizer):
    """Return the configuration of an optimizer or a metric, from which a new one can be made in memory.

    A learning rate that no file could hold, such as a schedule without `get_config`, or one that is not registered,
    stands in it as it is.
    """
    # Private, because the public `learning_rate` is a number, that of the next step.
    rate = getattr(optimizer, "_learning_rate", None)
    if not callable(rate):
        return optimizer.get_config()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Keras warns of lambdas.
            keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rate))
        return optimizer.get_config()
    except Exception:  # Of `get_config`, `__init__` or of Keras, which does not know the class.
        optimizer._learning_rate = 0.0  # Else Keras would serialize it here, too.
        try:
            return {**optimizer.get_config(), "learning_rate": rate}
        finally:
            optimizer._learning_rate = rate


def without_decay(optimizer):
    """Return what no configuration holds: the names that an optimizer and those within exclude from weight decay.

    They are one pattern for each optimizer, or `None`. A metric has no such names.
    """
    # Private, because Keras has no public way to read what `exclude_from_weight_decay` was given.
    found = [getattr(each, "_exclude_from_weight_decay_pattern", None) for each in [optimizer, *_within(optimizer)]]
    return [None if pattern is None else pattern.pattern for pattern in found]


def leave_without_decay(optimizer, names):
    """Exclude the result of `without_decay` from the weight decay of a new optimizer, and return it."""
    for each, pattern in zip([optimizer, *_within(optimizer)], names, strict=False):
        if pattern is not None:
            each.exclude_from_weight_decay(var_names=[pattern])
    return optimizer


def check_without_decay(optimizer):
    """Raise `ValueError` if an optimizer excludes the variables of one model from weight decay."""
    if any(getattr(each, "_exclude_from_weight_decay", None) for each in [optimizer, *_within(optimizer)]):
        raise ValueError(
            "`optimizer`: `exclude_from_weight_decay(var_list=...)` is about the variables of one model, and each "
            "generation has variables of its own: use `var_names`, for instance `var_names=['bias', 'gamma', 'beta']`."
        )


def from_config(config, custom_objects=None):
    """As `keras.saving.deserialize_keras_object` of a model, whose optimizer is left unbuilt if it is compiled."""
    model = keras.saving.deserialize_keras_object({**config, "compile_config": None}, custom_objects)
    compile_config = config.get("compile_config")
    if not compile_config:
        return model
    if _compiles_as_keras(model) and type(model).compile_from_config is keras.Model.compile_from_config:
        compile_from_config(model, compile_config)
    else:
        model.compile_from_config(compile_config)
    return model


def compile_from_config(model, config):
    """As `keras.Model.compile_from_config`, but leave the optimizer unbuilt.

    If the model is loaded from a file that has the variables of an optimizer that was built, it is built then.
    """
    if _compiles_as_keras(model):
        model.compile(**keras.saving.deserialize_keras_object(config))
        leave_unbuilt(model)
    else:
        keras.Model.compile_from_config(model, config)


def _compiles_as_keras(model):
    return type(model).compile is keras.Model.compile


def _within(optimizer):
    """Return the optimizers that this one holds, each once."""
    held = keras.tree.flatten(list(vars(optimizer).values()))
    return list({id(each): each for each in held if isinstance(each, keras.optimizers.Optimizer)}.values())


def _save(optimizer, model, store):
    """Save the variables that the optimizer has, or would have if it was built, to the store of Keras."""
    if optimizer.built:
        type(optimizer).save_own_variables(optimizer, store)
        return
    new = type(optimizer).from_config(configuration_of(optimizer))
    if not _within(optimizer):
        for own, other in zip(optimizer.variables, new.variables, strict=True):
            other.assign(own.value)
    new.build(model.trainable_variables)
    for index, variable in enumerate(new.variables):
        _write(store, str(index), backend.value_of(variable))
    group = _group_of(store)
    if group is not None:
        group.attrs[_NEW] = True


def _write(store, name, value):
    """Write a value. If all of its numbers are equal, HDF5 stores that number once."""
    group = _group_of(store)
    is_constant = 0 < value.ndim and 0 < value.nbytes < _MOST_BYTES and bool((value == value.flat[0]).all())
    if group is not None and is_constant and value.dtype.kind in "biuf":
        group.create_dataset(name, value.shape, value.dtype, fillvalue=value.flat[0])
    elif group is not None and is_constant and value.dtype.name == "bfloat16" and value.flat[0] == 0:
        # As Keras writes it: HDF5 does not know the type.
        group.create_dataset(name, value.shape, value.dtype).attrs["dtype"] = "bfloat16"
    else:
        store[name] = value


def _group_of(store):
    """Return the HDF5 group of a store of Keras; `None` if the store has none, or divides it among files."""
    # Private, because a store has no public way to leave values out, or to mark them.
    group = getattr(store, "_h5_entry_group", None)
    return group if hasattr(group, "create_dataset") and not hasattr(store, "sharding_config") else None


def _load(optimizer, model, store):
    """Load variables from the store of Keras. Those of an optimizer that was built need one that is built."""
    group = _group_of(store)
    if not optimizer.built and group is not None and group.attrs.get(_NEW, False):
        for index, variable in enumerate([] if _within(optimizer) else optimizer.variables):
            variable.assign(store[str(index)])
        return
    if not optimizer.built and len(store.keys()) > len(optimizer.variables):
        optimizer.build(model.trainable_variables)
    type(optimizer).load_own_variables(optimizer, store)


def _make_train_function(model, optimizer, force=False):
    if model.optimizer is optimizer:
        backend.build_optimizer(model)
    return type(model).make_train_function(model, force)


def _call_with_unbuilt(model, optimizer, name, *args, **kwargs):
    """Call a method of the model. On JAX and torch, Keras would build the optimizer, although it is not used."""
    is_unbuilt = model.optimizer is optimizer and not optimizer.built
    if is_unbuilt:
        optimizer.built = True
    try:
        return getattr(type(model), name)(model, *args, **kwargs)
    finally:
        if is_unbuilt:
            optimizer.built = False
