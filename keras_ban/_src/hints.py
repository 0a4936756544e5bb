"""The type hints that public signatures share."""

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import keras

# Arrays, tensors, nests of them, or a dataset. Keras has no types for them either.
Data = Any
Tensor = Any
# A loss, or a list or dict of losses, one for each output. Keras takes names, objects and functions. So for metrics.
Losses = Any
Metrics = Any
Optimizer = str | dict | keras.optimizers.Optimizer
Config = dict[str, Any]

Path = str | os.PathLike[str]
# A function of the training step; or, as `keras_ban.OverTraining`, of the fraction of the training that is done.
Schedule = Callable[[Any], Any]
Scheduled = float | Schedule
ModelOrBuilder = keras.Model | Callable[[int], keras.Model]
# A function gets a batch of NumPy arrays.
Teacher = keras.Model | Callable[[Any], Any]
# One for all generations, one for each, or a function of the number of the generation.
LabelWeights = Scheduled | Sequence[Scheduled]
Epochs = int | Sequence[int] | Callable[[int], int]
Callbacks = (
    keras.callbacks.Callback | Sequence[keras.callbacks.Callback] | Callable[[int], Sequence[keras.callbacks.Callback]]
)
Layers = keras.layers.Layer | Sequence[keras.layers.Layer]
# No `Sequence`: a single name is one, too.
LayerNames = list[str] | tuple[str, ...] | dict[str, str]

FromLogits = bool | Literal["auto"]
Activation = Literal["softmax", "sigmoid"]
Average = Literal["probabilities", "logits", "outputs"]
Verbose = int | Literal["auto"]

_Method = TypeVar("_Method", bound=Callable[..., Any])


def passes_on_to(of_keras: Callable[..., Any]) -> Callable[[_Method], _Method]:
    """Decorate a method that passes `**kwargs` on to one of Keras: its signature shows the arguments by name.

    `help` and notebooks show this signature, and complete arguments from it. Nothing else changes.
    """

    def decorate(method):
        own, keras_names = inspect.signature(method), inspect.signature(of_keras).parameters
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        mine = {name: each for name, each in own.parameters.items() if each.kind not in variable}
        others = [each.replace(annotation=Any) for each in keras_names.values() if each.name not in mine]
        others = [each for each in others if each.kind not in variable]
        if not any(each.kind is variable[0] for each in own.parameters.values()):
            others = [each.replace(kind=each.KEYWORD_ONLY) for each in others]
        parameters = sorted([*mine.values(), *others], key=lambda each: each.kind)
        method.__signature__ = own.replace(parameters=parameters)
        return method

    return decorate
