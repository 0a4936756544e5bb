"""A small LSTM language model, born again three times, token by token, on text that every Python brings along.

    python examples/language_model.py --backend jax
    python examples/language_model.py --backend jax --text book.txt

Each generation has the same architecture. Generation 0 learns from the text; each later one from the text and from the
generation before, which says at each token how probable each word was. A vocabulary of numbers for each token is more
than memory holds, so of these the `--top-k` largest are kept. Of 20 paragraphs in a row 18 train the generations, one
chooses the best, and one is looked at once, at the end. Words that are rare count as one, `<unknown>`, so perplexities
compare on the same text and vocabulary alone.
"""

import argparse
import ast
import collections
import json
import os
import pathlib
import re
import sys
import sysconfig

import numpy as np
import user_files

STEPS = 35  # The longest sequence, as in the paper.
PADDING, UNKNOWN, END = range(3)
SPECIAL = ["<padding>", "<unknown>", "<end>"]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], help="default: as Keras is configured")
    parser.add_argument("--text", help="a text file, UTF-8 (default: the docstrings of Python's standard library)")
    parser.add_argument("--seed", type=int, default=0, help="of every generation (default: 0)")
    parser.add_argument("--generations", type=int, default=3, help="students after the first teacher (default: 3)")
    parser.add_argument("--epochs", type=int, default=8, help="for each generation (default: 8)")
    parser.add_argument("--batch-size", type=int, default=16, help="sequences in a training step (default: 16)")
    parser.add_argument("--vocabulary", type=int, default=1000, help="the most frequent words (default: 1000)")
    parser.add_argument("--units", type=int, default=128, help="of the embedding and the LSTM (default: 128)")
    parser.add_argument("--dropout", type=float, default=0.2, help="the share of units left out (default: 0.2)")
    parser.add_argument("--learning-rate", type=float, default=1e-2, help="at the start (default: 0.01)")
    parser.add_argument("--top-k", type=int, default=20, help="soft targets kept of each token (default: 20)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the distillation loss (default: 1)")
    parser.add_argument("--label-weight", type=float, default=0.8, help="the label loss's share (default: 0.8)")
    parser.add_argument("--directory", help="keep each generation there, and continue a run that was interrupted")
    parser.add_argument("--out", default="runs/language_model", help="for the results (default: runs/language_model)")
    arguments = parser.parse_args()
    end = user_files.option("--text", parser.error)
    try:
        paragraphs = standard_library() if arguments.text is None else read_paragraphs(arguments.text, end)
    except ValueError as error:
        parser.error(f"--text: {error}")
    return arguments, paragraphs


def standard_library():
    """The docstrings' paragraphs, each once, in an order that is the same for the same Python."""
    docstrings = []
    for path in sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                docstrings.append(ast.get_docstring(node) or "")
    return split("\n\n".join(docstrings), "The standard library's source")


def read_paragraphs(path, end=sys.exit):
    """Those of a file, each once; its lines, where it has no blank ones. `end` ends the process with a message."""
    return split(user_files.read_text(path, end=end), path)


def split(text, name):
    """Paragraphs of a text, as lists of tokens: words and numbers in lower case, and each other sign by itself."""
    parts = re.split(r"\n\s*\n", text.strip())
    parts = parts if len(parts) > 1 else text.splitlines()
    tokens = [re.findall(r"\w+|[^\w\s]", part.lower()) for part in dict.fromkeys(parts)]
    paragraphs = [each for each in tokens if each]
    if len(paragraphs) < 20:
        raise ValueError(
            f"{name} has {len(paragraphs)} different paragraphs (or lines, without blank ones in between), and at "
            "least 20 are wanted, to train, validate and test on."
        )
    return paragraphs


def load_sequences(paragraphs, vocabulary):
    """`(x, y)` for training, validation and test, and the words that the numbers in them stand for.

    Both are int32 `(sequences, 35)`: a paragraph's tokens, cut where it is longer, and in `y` the token after each.
    """
    parts = [[], [], []]
    for i, tokens in enumerate(paragraphs):
        parts[max(i % 20 - 17, 0)].append(tokens)
    counts = collections.Counter(token for tokens in parts[0] for token in tokens)
    words = SPECIAL + [word for word, _ in counts.most_common(vocabulary - len(SPECIAL))]
    numbers = {word: number for number, word in enumerate(words)}

    def as_arrays(part):
        pairs = []
        for tokens in part:
            ids = [END, *(numbers.get(token, UNKNOWN) for token in tokens), END]
            for start in range(0, len(ids) - 1, STEPS):
                piece = np.full(STEPS + 1, PADDING, "int32")
                piece[: len(ids[start : start + STEPS + 1])] = ids[start : start + STEPS + 1]
                # The last token has nothing after it: it is padding in `x` too, so that masks of `x` fit `y`.
                pairs.append((np.where(piece[1:] == PADDING, PADDING, piece[:-1]), piece[1:]))
        return tuple(np.stack(arrays) for arrays in zip(*pairs, strict=True))

    return *(as_arrays(part) for part in parts), words


if __name__ == "__main__":
    # Keras reads the backend's name once, when it is imported.
    ARGUMENTS, PARAGRAPHS = parse_arguments()
    if ARGUMENTS.backend:
        os.environ["KERAS_BACKEND"] = ARGUMENTS.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
from keras import layers  # noqa: E402

import keras_ban  # noqa: E402


@keras.saving.register_keras_serializable(package="language_model")
class TiedEmbedding(layers.ReversibleEmbedding):
    """Keras's own, whose logits (`reverse=True`) keep the mask: without it padding would be learnt, and counted."""

    def compute_mask(self, inputs, mask=None):
        return keras.ops.not_equal(inputs, PADDING) if len(inputs.shape) == 2 else mask


@keras.saving.register_keras_serializable(package="language_model")
class Perplexity(keras.metrics.Mean):
    """`exp` of the mean cross-entropy of all tokens. (Losses are means of batches, which have more padding or less.)"""

    def update_state(self, y_true, y_pred, sample_weight=None):
        # By the labels: under JAX the outputs of a training step bring no mask to the metrics.
        losses = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        super().update_state(losses, sample_weight=keras.ops.not_equal(y_true, PADDING))

    def result(self):
        return keras.ops.exp(super().result())


def build_lstm(words, units, dropout):
    """Tokens `(batch, 35)` to logits `(batch, 35, words)`, by one matrix that embeds words and tells them apart."""
    inputs = keras.Input((STEPS,), dtype="int32")
    embedding = TiedEmbedding(words, units, mask_zero=True)
    x = layers.Dropout(dropout)(embedding(inputs))
    x = layers.LSTM(units, return_sequences=True)(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, embedding(x, reverse=True), name="language_model")


def main(arguments, paragraphs):
    train, validation, test, words = load_sequences(paragraphs, arguments.vocabulary)
    counts = ", ".join(f"{np.count_nonzero(y):,}" for _, y in (train, validation, test))
    print(f"keras {keras.__version__} on {keras.config.backend()}, keras_ban {keras_ban.__version__}")
    print(f"Tokens to train, validate and test on: {counts}; a vocabulary of {len(words):,}")

    sequence = keras_ban.BornAgainSequence(
        build_lstm(len(words), arguments.units, arguments.dropout),
        generations=arguments.generations,
        distillation_loss=keras_ban.losses.KnowledgeDistillation(temperature=arguments.temperature),
        label_weight=arguments.label_weight,
        directory=arguments.directory,
        seed=arguments.seed,
        top_k=arguments.top_k,
    )
    steps = arguments.epochs * -(-len(train[0]) // arguments.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(arguments.learning_rate, decay_steps=steps)
    sequence.compile(
        optimizer=keras.optimizers.Adam(schedule, clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[Perplexity(name="perplexity")],
    )
    fitting = {"batch_size": arguments.batch_size, "epochs": arguments.epochs, "verbose": 2}
    history = sequence.fit(*train, validation_data=validation, monitor="val_perplexity", **fitting)

    def perplexities(data):
        options = {"batch_size": arguments.batch_size, "verbose": 0, "return_dict": True}
        return [model.evaluate(*data, **options)["perplexity"] for model in (*sequence.models, sequence.ensemble())]

    results = {
        "settings": vars(arguments),
        "best_generation": history.best_generation,
        "validation": perplexities(validation),
        "test": perplexities(test),
        "seconds": [record.seconds for record in history.records],
    }
    print(table(results))
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    sequence.best_model.save(out / "best.keras")
    (out / "vocabulary.json").write_text(json.dumps(words), encoding="utf-8")
    (out / "perplexity.json").write_text(json.dumps(results, indent=2))
    print(f"Wrote best.keras (generation {history.best_generation}), vocabulary.json and perplexity.json to {out}/")


def table(results):
    """Perplexities, and how much lower they are on the test data than generation 0's."""
    lines = [f"{'Perplexity of generation':24} {'validation':>10} {'test':>10} {'lower by':>10}"]
    last = len(results["test"]) - 1
    for i, (validation, test) in enumerate(zip(results["validation"], results["test"], strict=True)):
        name = f"ensemble of {last}" if i == last else f"{i}{' (teacher)' if i == 0 else ''}"
        name += " *" if i == results["best_generation"] else ""
        gain = "" if i == 0 else f"{1 - test / results['test'][0]:10.2%}"
        lines.append(f"{name:24} {validation:10.2f} {test:10.2f} {gain}".rstrip())
    return "\n".join([*lines, "* best on the validation data"])


if __name__ == "__main__":
    main(ARGUMENTS, PARAGRAPHS)
