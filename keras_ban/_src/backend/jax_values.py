"""Keep the values of a model under JAX, however training ends.

Keras takes the values out of the variables before the first step of an epoch, and puts them back after the last. Each
compiled step deletes the values that it gets, and returns new ones. So an error may come while the variables have no
values, and an interruption within a step would lose both the old and the new ones.
"""

import contextlib
import functools
import itertools
import signal
import threading

import jax
import keras

from keras_ban._src.backend import common

KINDS = ("train", "test", "predict")


@contextlib.contextmanager
def keeping_values(model):
    """Return a context for `fit`, `evaluate` and `predict` after which the model has its newest values.

    Within a step, Ctrl-C waits for the end of the step. A second one does not wait.

    Raises:
        ValueError: as `check_values`.
    """
    if hasattr(model.make_train_function, "before"):
        yield  # Already within such a context: a callback evaluates the model that is trained.
        return
    check_values(model)
    separate(_variables(model))
    keeper = _Keeper(model)
    try:
        with keeper.in_each_step(), keeper.waiting_interrupts():
            yield
    except BaseException:
        model.jax_state_sync()  # Keras's `evaluate` and `predict` leave it out after an error.
        raise
    finally:
        keeper.put_back()
        separate(_variables(model))


def check_values(model):
    """Raise `ValueError` if variables have no values, because an error ended a step that had deleted them.

    Those of the optimizer do not count: Keras's own `predict` deletes averages of the weights (see `separate`).
    """
    variables = [*model.variables, *model.metrics_variables]
    if not any(map(_is_lost, variables)):
        return
    for layer in common.flat_layers(model):
        if isinstance(layer, keras.Model):
            layer.jax_state_sync()  # As above, if the user called Keras's own method.
    if any(map(_is_lost, variables)):
        raise ValueError(
            f"The weights of the model {model.name!r} are lost: training ended within a step to which JAX had given "
            "them. Load them (`load_weights`) and call `compile` again, or create the model again."
        )


def separate(variables, others=()):
    """Copy values that variables share with each other or with `others`: a step of one would delete that of the other.

    After `fit` with `use_ema=True`, for instance, weights and their averages share values.
    """
    found = {id(variable._value) for variable in others}
    for variable in variables:
        value = variable._value
        if id(value) in found and not _is_lost(variable):
            variable.assign(jax.numpy.copy(value))
        found.add(id(value))


class _Keeper:
    """Knows the newest values of a model's variables."""

    def __init__(self, model):
        self._model = model
        variables = [variable for variable in _variables(model) if not _is_lost(variable)]
        # The states that Keras passes to steps and gets from them, the newest last: `{kind: (variables, values)}`.
        self._states = {"before": (variables, [[variable.value for variable in variables]])}
        self._in_step = self._interrupted = False
        self._handler = None

    @contextlib.contextmanager
    def in_each_step(self):
        """Return a context in which all compiled steps of the model are watched."""
        attributes = vars(self._model)
        for kind in KINDS:
            name = f"make_{kind}_function"
            make = functools.partial(self._make, kind, getattr(self._model, name))
            make.before = attributes.get(name)  # A model from a file has one of its own.
            attributes[name] = make
        try:
            yield
        finally:
            for kind in KINDS:
                before = attributes.pop(f"make_{kind}_function").before
                if before is not None:
                    attributes[f"make_{kind}_function"] = before
                step = getattr(self._model, f"{kind}_function")
                setattr(self._model, f"{kind}_function", getattr(step, "unwatched", step))

    def _make(self, kind, make, *args, **kwargs):
        make(*args, **kwargs)
        step = getattr(self._model, f"{kind}_function")
        if not hasattr(step, "unwatched"):
            watched = functools.partial(self._step, kind, step)
            watched.unwatched = step
            setattr(self._model, f"{kind}_function", watched)

    def _step(self, kind, step, state, iterator):
        variables, newest = self._states.get(kind, (None, None))
        if state is not newest:
            variables = self._variables_in(kind)
        if kind == "train":
            self._states.clear()  # Its state holds all variables.
        self._keep(kind, variables, state)
        try:
            self._raise_interrupt()
            self._in_step = True
            outputs, state = step(state, self._batches(iterator))
            self._keep(kind, variables, state)
            return outputs, state
        except BaseException:
            self.put_back()
            raise
        finally:
            self._in_step = False

    def _batches(self, iterator):
        """Yield the batches of a step. Ctrl-C does not wait while it waits for the first: nothing is lost."""
        self._in_step = False
        for batch in iterator:
            self._in_step = True
            yield batch

    def _variables_in(self, kind):
        """The variables of a state, in the order of Keras."""
        model = self._model
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        variables += model.optimizer.variables if kind == "train" else []
        return variables + (model.metrics_variables if kind != "predict" else [])

    def _keep(self, kind, variables, state):
        self._states.pop(kind, None)
        self._states[kind] = variables, state

    def put_back(self):
        """Give variables without a value the newest that there is."""
        for variables, state in reversed(self._states.values()):
            for variable, value in zip(variables, itertools.chain(*state), strict=True):
                if _is_lost(variable) and not value.is_deleted():
                    variable.assign(value)

    @contextlib.contextmanager
    def waiting_interrupts(self):
        """Return a context in which Ctrl-C waits for the end of a step. Only the main thread can."""
        self._handler = signal.getsignal(signal.SIGINT)
        if not callable(self._handler) or threading.current_thread() is not threading.main_thread():
            yield
            return
        signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            yield
        finally:
            if signal.getsignal(signal.SIGINT) == self._on_interrupt:
                signal.signal(signal.SIGINT, self._handler)
        self._raise_interrupt()

    def _on_interrupt(self, number, frame):
        if self._in_step and not self._interrupted:
            self._interrupted = True
        else:
            self._handler(number, frame)

    def _raise_interrupt(self):
        if self._interrupted:
            self._interrupted = False
            self._handler(signal.SIGINT, None)


def _variables(model):
    """All variables of the model, its metrics and its optimizer, each once."""
    optimizer = getattr(model, "optimizer", None)
    found = [*model.variables, *model.metrics_variables, *(optimizer.variables if optimizer else [])]
    return list({id(variable): variable for variable in found}.values())


def _is_lost(variable):
    # Private, because Keras has no public test. Without a value, `variable.value` calls the initializer.
    value = variable._value
    return value is None or isinstance(value, jax.core.Tracer) or value.is_deleted()
