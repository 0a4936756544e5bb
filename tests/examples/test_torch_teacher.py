"""`examples/torch_teacher.py`: what a torch model says reaches the Keras student."""

import re

import keras
import numpy as np
import pytest
import torch_teacher

from keras_ban import SoftTargets

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")


def test_the_torch_model_teaches_in_inference_mode():
    x = np.random.default_rng(0).random((30, 64)).astype("float32")
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(64, 10))
    targets = SoftTargets.from_teacher(torch_teacher.teaching(model), x, batch_size=7, verbose=0)

    kernel, bias = (each.detach().numpy().astype("float64") for each in model[1].parameters())
    np.testing.assert_allclose(x @ kernel.T + bias, targets.to_dense(), rtol=0, atol=1e-5)
    assert targets.from_logits and "teach" == targets.teacher_name


def test_a_run_prints_accuracies_of_two_models_that_have_learnt(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["torch_teacher.py", "--epochs", "6"])

    torch_teacher.main()

    form = rf"Accuracy on 797 test images: torch teacher (.*), Keras student on {keras.config.backend()} (.*)\n"
    accuracies = [float(each) for each in re.fullmatch(form, capsys.readouterr().out).groups()]
    assert min(accuracies) > 0.9
