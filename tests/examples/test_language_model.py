"""The language model among the examples: its text, its masks, its perplexity, and the whole of it as a process."""

import json

import keras
import language_model
import numpy as np
import oracles
import pytest
from helpers.models import crossentropy
from helpers.processes import run_script

import keras_ban

WORDS = 12


def padded(sequences, seed=0):
    """`(x, y)`: tokens `(sequences, 35)` of 1 to 30 random words each, so that two in five and more are padding."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, WORDS, (sequences, 36))
    lengths = rng.integers(1, 31, sequences)
    real = np.arange(35) < lengths[:, None]
    return np.where(real, tokens[:, :-1], 0).astype("int32"), np.where(real, tokens[:, 1:], 0).astype("int32")


def log_probabilities(model, x):
    """What the model says, in float64."""
    return oracles.log_softmax(np.asarray(model.predict(x, verbose=0), "float64"))


def token_losses(model, x, y):
    """The cross-entropies of the real tokens alone."""
    of_labels = np.take_along_axis(log_probabilities(model, x), y[..., None], axis=-1)[..., 0]
    return -of_labels[y != 0]


def sharp_lstm(seed):
    """A model whose probabilities are far from even, the same on every backend."""
    model = language_model.build_lstm(WORDS, 8, dropout=0.0)
    rng = np.random.default_rng(seed)
    model.set_weights([rng.standard_normal(weight.shape) for weight in model.get_weights()])
    return model


def test_logits_and_ensembles_of_them_carry_the_mask_of_the_tokens():
    x, _ = padded(4)
    models = [sharp_lstm(seed) for seed in (1, 2)]
    for model in (models[0], keras_ban.EnsembleModel(models, from_logits=True)):
        np.testing.assert_array_equal(x != 0, keras.ops.convert_to_numpy(model(x)._keras_mask))


def test_both_losses_are_means_over_the_real_tokens_alone():
    x, y = padded(16)
    teacher, student = sharp_lstm(1), sharp_lstm(2)
    label_loss = token_losses(student, x, y).mean()
    p, q = (log_probabilities(model, x) for model in (teacher, student))
    # What is stored of the teacher: the five largest, and the mass of the seven others spread evenly.
    kept = np.exp(p) * (np.exp(p) >= np.sort(np.exp(p))[..., -5:-4])
    stored = np.where(kept > 0, kept, (1 - kept.sum(axis=-1, keepdims=True)) / (WORDS - 5))
    divergence = (stored * (np.log(stored) - q)).sum(axis=-1)
    assert abs(divergence.mean() - divergence[y != 0].mean()) > 0.01, "padding makes no difference here"

    distiller = keras_ban.Distiller(student=student, label_weight=0.25)
    distiller.compile(keras.optimizers.SGD(0.0), crossentropy())
    targets = keras_ban.SoftTargets.from_teacher(teacher, x, top_k=5, verbose=0)
    logs = distiller.fit(x, y, soft_targets=targets, batch_size=16, verbose=0).history

    # float16 keeps log-probabilities to 1 part in 2,000.
    assert pytest.approx(divergence[y != 0].mean(), rel=2e-3) == logs["distillation_loss"][0]
    assert pytest.approx(label_loss, rel=1e-5) == logs["label_loss"][0]
    mixture = 0.25 * label_loss + 0.75 * divergence[y != 0].mean()
    assert pytest.approx(mixture, rel=2e-3) == logs["loss"][0]


@pytest.mark.one_backend
def test_perplexity_is_that_of_all_real_tokens_in_training_too():
    x, y = padded(20)
    models = [sharp_lstm(seed) for seed in (1, 2)]
    for model in (models[0], keras_ban.EnsembleModel(models, from_logits=True)):
        expected = np.exp(token_losses(model, x, y).mean())
        model.compile(keras.optimizers.SGD(0.0), crossentropy(), metrics=[language_model.Perplexity(name="perplexity")])
        # Batches of 8, 8 and 4 sequences, whose means the loss averages.
        logs = model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
        assert abs(np.exp(logs["loss"]) / expected - 1) > 1e-3, "batches are too alike to tell"
        assert pytest.approx(expected, rel=1e-5) == logs["perplexity"]
        trained = model.fit(x, y, batch_size=8, verbose=0).history
        assert pytest.approx(expected, rel=1e-5) == trained["perplexity"][0]


@pytest.mark.one_backend
def test_sequences_hold_every_token_once_and_the_one_after_it():
    paragraphs = [[f"w{i}", "of", *["long"] * (i * 3)] for i in range(40)]
    *parts, words = language_model.load_sequences(paragraphs, 25)

    assert 25 == len(words) and ["<padding>", "<unknown>", "<end>", "long", "of"] == words[:5]
    assert not {"w18", "w19", "w38", "w39"} & set(words), "words of validation or test data are known"
    for (x, y), numbers in zip(parts, [[*range(18), *range(20, 38)], [18, 38], [19, 39]], strict=True):
        expected = []
        for number in numbers:
            expected += ["<end>", *(w if w in words else "<unknown>" for w in paragraphs[number])]
        assert expected == [words[i] for i in x[x != 0]]
        np.testing.assert_array_equal(x != 0, y != 0)
        # What comes next is the next token of the same sequence, and where that is full, the first of the next.
        following = np.append(x[x != 0][1:], language_model.END)
        np.testing.assert_array_equal(following, y[y != 0])
        assert 35 == x.shape[1] and (x[:, 0] != 0).all()


@pytest.mark.one_backend
def test_the_standard_librarys_docstrings_are_a_text():
    paragraphs = language_model.standard_library()

    assert sum(len(tokens) for tokens in paragraphs) > 100_000
    assert len(paragraphs) > 4_000


@pytest.mark.one_backend
def test_a_text_without_blank_lines_is_one_of_lines(tmp_path):
    (tmp_path / "text").write_text("\n".join(f"Line {i}!" for i in range(20)), encoding="utf-8-sig")

    assert [["line", str(i), "!"] for i in range(20)] == language_model.read_paragraphs(tmp_path / "text")


@pytest.mark.one_backend
@pytest.mark.new_process
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"", "has 0 different paragraphs"),
        (b"To be.\n\nTo be.\n\nOr not to be.", "has 2 different paragraphs"),
        (b"\xff\xfe\x00", "must be a text file in UTF-8"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused_by_its_path(tmp_path, content, message):
    if content is not None:
        (tmp_path / "text").write_bytes(content)

    result = run_script("examples/language_model.py", "--text", tmp_path / "text")

    assert 2 == result.returncode
    assert message in result.stderr and str(tmp_path / "text") in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.one_backend
def test_the_table_tells_how_much_lower_than_generation_0s_a_perplexity_is():
    results = {"validation": [110, 100, 90], "test": [120, 108, 126], "best_generation": 1}

    assert language_model.table(results).splitlines() == [
        "Perplexity of generation validation       test   lower by",
        "0 (teacher)                  110.00     120.00",
        "1 *                          100.00     108.00     10.00%",
        "ensemble of 2                 90.00     126.00     -5.00%",
        "* best on the validation data",
    ]


@pytest.mark.one_backend
@pytest.mark.new_process
def test_a_run_prints_perplexities_and_writes_its_files(tmp_path):
    rng = np.random.default_rng(0)
    sentences = [" ".join(rng.choice(["the", "cat", "dog", "saw", "a", "."], 3 + i % 40)) for i in range(60)]
    (tmp_path / "text").write_text("\n".join(sentences))
    options = ["--backend", keras.config.backend(), "--text", tmp_path / "text", "--directory", tmp_path / "run"]
    options += ["--epochs", 1, "--generations", 1, "--units", 4, "--batch-size", 128, "--top-k", 3]

    result = run_script("examples/language_model.py", *options, "--out", tmp_path / "out")

    assert 0 == result.returncode, result.stderr
    assert "a vocabulary of 9" in result.stdout and "Generation 1 of 1, taught by generation 0" in result.stdout
    results = json.loads((tmp_path / "out" / "perplexity.json").read_text())
    assert 3 == len(results["test"]) == len(results["validation"])
    assert language_model.table(results) in result.stdout
    # The models that were saved are those that were scored.
    assert 9 == len(json.loads((tmp_path / "out" / "vocabulary.json").read_text()))
    x, y = language_model.load_sequences(language_model.read_paragraphs(tmp_path / "text"), 4000)[2]
    kept = keras_ban.BornAgainSequence.load(tmp_path / "run")
    best = keras.saving.load_model(tmp_path / "out" / "best.keras")
    expected = [float(np.exp(token_losses(model, x, y).mean())) for model in (*kept.models, best)]
    assert pytest.approx(expected, rel=1e-5) == [*results["test"][:2], results["test"][results["best_generation"]]]
