"""The layer of an `EnsembleModel` that averages the outputs of its members."""

import functools

import keras
import numpy as np
from keras import ops

from keras_ban._src.losses.base import as_logits
from keras_ban._src.losses.precision import precision
from keras_ban._src.losses.temperature import log_of_probabilities, log_softmax


class Averaging(keras.layers.Layer):
    """The weighted average of tensors of equal shapes, divided by a temperature if it is of logits.

    It is a layer, so that Keras casts the tensors and passes on their mask. Weights and temperature are variables, so
    that a compiled step, of any model, reads their current values. They are settings, not weights of the model:
    `get_config` of the ensemble holds them.

    Args:
        shares: the weight of each member, non-negative, with the sum 1.
        temperature: a positive number.
        average, from_logits, activation: as in `EnsembleModel`.

    Attributes:
        shares, temperature: as above.
    """

    def __init__(self, shares, temperature, average, from_logits, activation):
        super().__init__(name="average", dtype=precision())
        self.supports_masking = True
        self._average = average
        self._from_logits = from_logits
        self._activation = activation
        self._values = [
            self.add_weight(shape, "zeros", trainable=False, name=name)
            for name, shape in (("temperature", ()), ("shares", (len(shares),)), ("log_shares", (len(shares),)))
        ]
        self.built = True
        self.set(shares, temperature)

    def set(self, shares, temperature):
        """Change weights and temperature. Compiled steps that lack a member give NaN, until they are compiled again."""
        self.shares, self.temperature = tuple(shares), temperature
        with np.errstate(divide="ignore"):  # The logarithm of 0 is -inf.
            values = (temperature, np.array(shares), np.log(np.array(shares)))
        for variable, value in zip(self._values, values, strict=True):
            variable.assign(value)

    @property
    def members_that_run(self):
        """The places of the members that count. A member of weight 0 is left out, because 0 * NaN would be NaN."""
        return tuple(i for i, share in enumerate(self.shares) if share > 0)

    @property
    def fingerprint(self):
        """A text that tells these settings from others. It is empty for equal weights and the temperature 1."""
        equal = len(set(self.shares)) == 1
        # In float32, because weights that are divided by their sum again may differ in their last bit.
        settings = np.array([*self.shares, self.temperature], "float32").tolist()
        return "" if equal and self.temperature == 1 else repr(settings)

    # Settings are neither weights nor saved with them.
    @property
    def weights(self):
        return []

    def save_own_variables(self, store):
        """Save nothing."""

    def load_own_variables(self, store):
        """Load nothing."""

    def call(self, outputs):
        """Average the outputs of `members_that_run`."""
        result = self._tempered_average([self._as_float(output) for output in outputs])
        absent = [i for i in range(len(self.shares)) if i not in self.members_that_run]
        if not absent:
            return result
        # A step that was compiled without these members cannot give the average if they count now.
        shares = ops.convert_to_tensor(self._values[1])
        missing = sum(shares[i] for i in absent)
        return ops.where(missing > 0, ops.full_like(result, float("nan")), result)

    def _as_float(self, output):
        # Keras casts floats alone, and TensorFlow does not multiply an integer by a float.
        is_float = keras.backend.is_float_dtype(keras.backend.standardize_dtype(output.dtype))
        return output if is_float else ops.cast(output, self.compute_dtype)

    def compute_mask(self, inputs, previous_mask):
        return next((mask for mask in keras.tree.flatten(previous_mask) if mask is not None), None)

    def _tempered_average(self, outputs):
        if self._average == "outputs":
            return self._weighted_sum(outputs)
        temperature = ops.convert_to_tensor(self._values[0])
        if self._average == "logits":
            logits = [as_logits(x, False, self._activation) for x in outputs] if not self._from_logits else outputs
            logits = self._weighted_sum(logits) / temperature
            return logits if self._from_logits else self._probabilities(logits)
        if self._from_logits:
            return self._log_of_average(outputs) / temperature
        mean = self._weighted_sum(outputs)
        tempered = self._probabilities(as_logits(mean, False, self._activation) / temperature)
        # Rounding must not change the average itself.
        return ops.where(temperature == 1, mean, tempered)

    def _probabilities(self, logits):
        probabilities = ops.softmax(logits)
        return probabilities if self._activation == "softmax" else probabilities[..., 0]

    def _weighted_sum(self, tensors):
        return sum(share * x for share, x in zip(self._of_members(self._values[1]), tensors, strict=True))

    def _of_members(self, variable):
        values = ops.convert_to_tensor(variable)
        return [values[i] for i in self.members_that_run]

    def _log_of_average(self, logits):
        if self._activation == "softmax":
            return self._log_mean_exp([ops.log_softmax(x) for x in logits])
        yes = self._log_mean_exp([ops.log_sigmoid(x) for x in logits])
        no = self._log_mean_exp([ops.log_sigmoid(-x) for x in logits])
        return yes - no

    def _log_mean_exp(self, logarithms):
        weighted = [x + log for log, x in zip(self._of_members(self._values[2]), logarithms, strict=True)]
        return ops.logsumexp(ops.stack(weighted), axis=0)


def average_logits(ensemble, outputs, shares):
    """Return the averaged logits of an `EnsembleModel` at temperature 1, in NumPy and float64.

    `outputs` are those of the members, and `shares` their weights, which sum to 1. With a sigmoid, the result is the
    logit of each output.
    """
    pairs = [(share, np.asarray(x, "float64")) for share, x in zip(shares, outputs, strict=True) if share > 0]
    if ensemble.average == "logits":
        return sum(share * (x if ensemble.from_logits else _logits(ensemble, x)) for share, x in pairs)
    if not ensemble.from_logits:
        return _logits(ensemble, sum(share * x for share, x in pairs))
    if ensemble.activation == "softmax":
        return _log_sum_exp([np.log(share) + log_softmax(x) for share, x in pairs])
    yes, no = (_log_sum_exp([np.log(share) - np.logaddexp(0, -sign * x) for share, x in pairs]) for sign in (1, -1))
    return yes - no


def average_outputs(ensemble, outputs, shares):
    """Return what an `EnsembleModel` with these weights gives at temperature 1, in NumPy and float64."""
    if ensemble.average == "outputs":
        return sum(share * np.asarray(x, "float64") for share, x in zip(shares, outputs, strict=True) if share > 0)
    logits = average_logits(ensemble, outputs, shares)
    if ensemble.from_logits:
        return logits
    return np.exp(log_softmax(logits) if ensemble.activation == "softmax" else -np.logaddexp(0, -logits))


def _logits(ensemble, probabilities):
    logs = log_of_probabilities(probabilities)
    return logs if ensemble.activation == "softmax" else logs - log_of_probabilities(1 - probabilities)


def _log_sum_exp(logarithms):
    return functools.reduce(np.logaddexp, logarithms)
