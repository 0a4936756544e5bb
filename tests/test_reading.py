"""Datasets that worker processes read, which may die."""

import faulthandler
import multiprocessing
import os
import time

import keras
import numpy as np
import pytest
from helpers.data import Batches
from helpers.models import assert_same, classifier, crossentropy, values
from helpers.processes import FORKS

from keras_ban import BornAgainSequence, Distiller

# JAX warns of each process that is forked, once it has been used in this one.
pytestmark = [pytest.mark.new_process, pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")]
DIED = "A process that read the `PyDataset.* has died"


class InProcesses(Batches):
    """Labels that follow the epoch; from epoch 1 on, the process that is asked for batch 1 may die."""

    def __init__(self, x, y, dies=False):
        super().__init__(x, y, workers=2, use_multiprocessing=True)
        self.dies, self.epoch = dies, 0

    def __getitem__(self, index):
        if self.dies and self.epoch >= 1 and index == 1:
            os._exit(1)
        x, y = super().__getitem__(index)
        return x, (y + self.epoch) % 3

    def on_epoch_end(self):
        self.epoch += 1


@pytest.fixture(autouse=True)
def no_wait_for_ever():
    faulthandler.dump_traceback_later(120, exit=True)
    if keras.config.backend() == "jax":
        # A process that has used JAX must not fork. These are forks of the server that `helpers.processes` prepares.
        method = multiprocessing.get_start_method()
        multiprocessing.set_start_method(FORKS.get_start_method(), force=True)
        yield
        multiprocessing.set_start_method(method, force=True)
    else:
        yield
    faulthandler.cancel_dump_traceback_later()


def distiller():
    made = Distiller(student=classifier(), teacher=classifier())
    made.compile("sgd", crossentropy())
    return made


@pytest.mark.parametrize("where", ["training", pytest.param("validation", marks=pytest.mark.one_backend)])
def test_a_process_that_dies_ends_training_with_an_error(blobs, where):
    data = InProcesses(*blobs, dies=True)
    with pytest.raises(RuntimeError, match=DIED):
        if where == "training":
            distiller().fit(data, epochs=3, verbose=0)
        else:
            distiller().fit(*blobs, epochs=3, verbose=0, validation_data=data)
    deadline = time.monotonic() + 60
    while multiprocessing.active_children():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.one_backend
@pytest.mark.filterwarnings("ignore:`x` may come in another order:UserWarning")  # Its labels do.
def test_a_run_goes_on_after_the_epoch_in_which_a_process_died(blobs, tmp_path, epochs_trained):
    made = BornAgainSequence(classifier(), generations=1, directory=tmp_path, seed=0)
    made.compile("sgd", crossentropy())
    with pytest.raises(RuntimeError, match=DIED):
        made.fit(InProcesses(*blobs, dies=True), epochs=3, verbose=0)
    last = epochs_trained[-1]

    made.fit(InProcesses(*blobs), epochs=3, verbose=0)

    assert last in ((0, 0), (0, 1))
    assert [(0, epoch) for epoch in range(last[1] + 1)] + [last] == epochs_trained[: last[1] + 2]
    assert 2 == len(made.models)


def test_an_evaluation_whose_process_dies_ends_with_an_error(blobs):
    data = InProcesses(*blobs, dies=True)
    data.epoch = 1
    trained = distiller()
    with pytest.raises(RuntimeError, match=DIED):
        trained.evaluate(data, verbose=0)


@pytest.mark.one_backend
def test_each_epoch_reads_what_keras_itself_would_read_without_processes(blobs):
    trained = []
    for ours in (True, False):
        keras.utils.set_random_seed(0)
        student = classifier()
        made = Distiller(student=student, label_weight=1) if ours else student
        made.compile("sgd", crossentropy())
        data = InProcesses(*blobs)
        if not ours:
            data.workers, data.use_multiprocessing = 1, False
        made.fit(data, epochs=3, verbose=0)
        trained.append(values(student))
    assert_same(*trained)


@pytest.mark.one_backend
def test_what_the_dataset_raises_is_told_as_it_is(blobs):
    data = InProcesses(*blobs)
    data.y = np.array(["a"] * len(blobs[0]))
    with pytest.raises(Exception, match="(?s)ufunc|str"):
        distiller().fit(data, verbose=0)
