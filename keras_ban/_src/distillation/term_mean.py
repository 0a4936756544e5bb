"""The mean of a term of the loss over an epoch."""

import keras

from keras_ban._src import backend


class TermMean(keras.metrics.Mean):
    """A `keras.metrics.Mean` of scalars, which costs little at each step."""

    def update_state(self, value, sample_weight=1):
        backend.update_mean(self, value, sample_weight)

    def result(self):
        return backend.result_of_mean(self)
