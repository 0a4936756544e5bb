"""Scores the average of members, with equal or fitted weights, before and after calibration."""

import keras
import numpy as np

import keras_ban


@keras.saving.register_keras_serializable(package="equal_cost")
class OutputsOf(keras.layers.Layer):
    """Gives the outputs of one member, where the inputs are the outputs of all: `(batch, members, ..., classes)`."""

    def __init__(self, place, **kwargs):
        super().__init__(**kwargs)
        self.place = place

    def call(self, inputs):
        return inputs[:, self.place]

    def get_config(self):
        return {**super().get_config(), "place": self.place}


# Steps of 3%, from 0.2 to 50.
_TEMPERATURES = 1.03 ** np.arange(-54, 133)


class Scorer:
    """Scores members by their outputs on the held-out examples of a task."""

    def __init__(self, task):
        self._parts = (task.weights_data, task.temperature_data, task.test)

    def score(self, outputs, fit_weights=False):
        """Return the scores of the average of members, by name.

        Args:
            outputs: the logits of each member for the held-out examples of the task, in the order of its parts.
            fit_weights: whether the members' weights are fitted to the first half of the validation data.
        """
        ends = np.cumsum([len(part[0]) for part in self._parts])[:-1]
        for_weights, for_temperature, test = np.split(np.stack(outputs, axis=1), ends)
        y_weights, y_temperature, y_test = (part[1] for part in self._parts)
        members = [
            keras.Sequential([keras.Input(for_weights.shape[1:]), OutputsOf(place)]) for place in range(len(outputs))
        ]
        ensemble = keras_ban.EnsembleModel(members, from_logits=True)
        # Averages are too small to be worth compiling.
        for model in [*members, ensemble]:
            model.compile(run_eagerly=True)
        batch_size = len(test)
        if fit_weights:
            ensemble.fit_weights(for_weights, y_weights, batch_size=batch_size)
        raw = ensemble.predict(test, batch_size=batch_size, verbose=0)
        validation = ensemble.predict(for_temperature, batch_size=batch_size, verbose=0)
        temperature = ensemble.calibrate(for_temperature, y_temperature, batch_size=batch_size)
        return {
            "members": sum(weight > 0 for weight in ensemble.member_weights),
            "error": error(raw, y_test),
            "nll": nll(raw, y_test),
            "nll_calibrated": nll(raw / temperature, y_test),
            "validation_error": error(validation, y_temperature),
            "validation_nll_calibrated": nll(validation / temperature, y_temperature),
            "temperature": float(temperature),
        }


def error(logits, y):
    return float((logits.argmax(axis=-1) != y).mean())


def best_temperature(logits, y):
    """Return the temperature with the smallest NLL."""
    return float(_TEMPERATURES[np.argmin([nll(logits / temperature, y) for temperature in _TEMPERATURES])])


def temperature_of(likelihood, logits, y):
    """Return the smallest temperature, of at least 1, at which logits have an NLL as large as this."""
    softer = _TEMPERATURES[_TEMPERATURES >= 1]
    enough = [temperature for temperature in softer if nll(logits / temperature, y) >= likelihood]
    return float(enough[0] if enough else softer[-1])


def nll(logits, y):
    logits = logits.astype("float64")
    highest = logits.max(axis=-1, keepdims=True)
    normalizer = np.log(np.exp(logits - highest).sum(axis=-1)) + highest[..., 0]
    return float((normalizer - np.take_along_axis(logits, y[..., None].astype("int64"), axis=-1)[..., 0]).mean())
