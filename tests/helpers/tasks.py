"""Small models that preprocess their data as KerasHub's tasks do, without KerasHub.

`Task` follows `PipelineModel` and `Task` of KerasHub: its own methods preprocess, `__call__` does not, and refuses
texts.
"""

import keras
import numpy as np

from helpers.data import CLASSES

WORDS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen")


@keras.saving.register_keras_serializable(package="tests")
class Scaler(keras.layers.Layer):
    """Multiplies numbers by a factor."""

    def __init__(self, factor=0.5, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor
        self.calls = 0
        # As in `keras_hub.layers.PreprocessingLayer`.
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True

    def __call__(self, x, y=None, sample_weight=None):
        self.calls += 1
        return keras.utils.pack_x_y_sample_weight(np.asarray(x) * np.float32(self.factor), y, sample_weight)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable(package="tests")
class Tokenizer(keras.layers.Layer):
    """Finds the number of each word. Only its assets hold the vocabulary."""

    def __init__(self, words=None, **kwargs):
        super().__init__(**kwargs)
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        self.words = None if words is None else list(words)

    def __call__(self, texts):
        assert isinstance(texts, list) and all(type(text) is str for text in texts), texts
        return [[self.words.index(word) for word in text.split()] for text in texts]

    def get_config(self):
        return {**super().get_config(), "words": None}

    def save_assets(self, path):
        with open(f"{path}/words.txt", "w") as file:
            file.write(" ".join(self.words))

    def load_assets(self, path):
        with open(f"{path}/words.txt") as file:
            self.words = file.read().split()


@keras.saving.register_keras_serializable(package="tests")
class TextPreprocessor(keras.layers.Layer):
    """Counts the words of texts, or of all but the last, which becomes the label, or hides words at random."""

    def __init__(self, tokenizer, makes_labels=False, hides_words=False, **kwargs):
        super().__init__(**kwargs)
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        self.tokenizer = tokenizer
        self.makes_labels, self.hides_words = makes_labels, hides_words
        self.packer = None

    def __call__(self, x, y=None, sample_weight=None):
        if self.packer is None:
            self.packer = keras.layers.Identity(name="packer")  # Created late, as in KerasHub.
        rows = self.tokenizer(x)
        if self.makes_labels:
            y = np.array([row[-1] % CLASSES for row in rows])
            sample_weight = np.array([1.0 + row[0] for row in rows], "float32")
            rows = [row[:-1] for row in rows]
        if self.hides_words:
            rows = [[word for word in row if np.random.rand() < 0.5] for row in rows]
        counts = [np.bincount(row, minlength=len(WORDS)) for row in rows]
        return keras.utils.pack_x_y_sample_weight(np.array(counts, "float32"), y, sample_weight)

    def get_config(self):
        config = {"tokenizer": keras.saving.serialize_keras_object(self.tokenizer)}
        return {**super().get_config(), **config, "makes_labels": self.makes_labels, "hides_words": self.hides_words}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "tokenizer": keras.saving.deserialize_keras_object(config["tokenizer"])})


@keras.saving.register_keras_serializable(package="tests")
class Task(keras.Model):
    """A classifier `(batch, 8) -> (batch, 3)` with a preprocessor."""

    def __init__(self, preprocessor=None, units=4, name=None, compile=True):
        inputs = keras.Input((8,))
        x = keras.layers.Dense(units, activation="relu", name="hidden")(inputs)
        super().__init__(inputs, keras.layers.Dense(CLASSES, name="top")(x), name=name)
        self.preprocessor = preprocessor
        self.units = units
        if compile:
            self.compile(keras.optimizers.Adam(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def preprocess_samples(self, x, y=None, sample_weight=None):
        if self.preprocessor is None:
            return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        return self.preprocessor(x, y=y, sample_weight=sample_weight)

    def __call__(self, *args, **kwargs):
        texts = [x for x in keras.tree.flatten(args[0]) if getattr(getattr(x, "dtype", None), "kind", "") in "OUS"]
        assert all(getattr(getattr(x, "dtype", None), "kind", "") == "" for x in texts), "Texts came to a step."
        return super().__call__(*args, **kwargs)

    def fit(self, x=None, y=None, batch_size=None, sample_weight=None, validation_data=None, **kwargs):
        x, y, sample_weight = self._own(x, y, sample_weight)
        if validation_data is not None:
            validation_data = self._own(*validation_data)
        kwargs |= {"sample_weight": sample_weight, "validation_data": validation_data}
        return super().fit(x, y, batch_size=batch_size, **kwargs)

    def evaluate(self, x=None, y=None, sample_weight=None, **kwargs):
        own = (x, y, sample_weight) if kwargs.get("_use_cached_eval_dataset") else self._own(x, y, sample_weight)
        return super().evaluate(own[0], own[1], sample_weight=own[2], **kwargs)

    def predict(self, x=None, **kwargs):
        return super().predict(self._own(x)[0], **kwargs)

    def train_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        return super().train_on_batch(*self._own(x, y, sample_weight), **kwargs)

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        return super().test_on_batch(*self._own(x, y, sample_weight), **kwargs)

    def predict_on_batch(self, x, **kwargs):
        return super().predict_on_batch(self._own(x)[0], **kwargs)

    def _own(self, x, y=None, sample_weight=None):
        x = x.tolist() if getattr(getattr(x, "dtype", None), "kind", "") in "OUS" else x
        return keras.utils.unpack_x_y_sample_weight(self.preprocess_samples(x, y, sample_weight))

    def get_config(self):
        preprocessor = self.preprocessor
        return {
            "preprocessor": None if preprocessor is None else keras.saving.serialize_keras_object(preprocessor),
            "units": self.units,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        if isinstance(config["preprocessor"], dict):
            config = {**config, "preprocessor": keras.saving.deserialize_keras_object(config["preprocessor"])}
        return cls(**config)


def texts_of_words(count=48, seed=0):
    """`(texts, labels)`: four words each."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(WORDS), (count, 4))
    return np.array([" ".join(WORDS[word] for word in row) for row in rows]), rows[:, 1] % CLASSES


def counted(texts, words=WORDS):
    """The inputs that `TextPreprocessor` makes, by hand."""
    return np.array([[text.split().count(word) for word in words] for text in texts], "float32")


def text_task(words=WORDS, **options):
    return Task(TextPreprocessor(Tokenizer(words), **options))
