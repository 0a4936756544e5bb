"""Several processes train as one does: two of them, on this machine, over its loopback."""

import contextlib
import json
import os
import re
import signal
import socket

import keras
import numpy as np
import pytest
from helpers.data import make_blobs
from helpers.models import classifier, crossentropy, values
from helpers.processes import Process

import keras_ban
from keras_ban._src.backend import process_group
from keras_ban._src.sequence.training import entropy_of

BACKEND = keras.config.backend()
not_on_torch = pytest.mark.skipif(BACKEND == "torch", reason="Keras has no data parallelism of its own on torch")


@contextlib.contextmanager
def two_workers(work, *arguments, folder):
    """Two processes that run `work(*arguments)` in `folder`, each a worker of the backend's engine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    with contextlib.ExitStack() as running:
        processes = []
        for number in range(2):
            task = {"type": "worker", "index": number}
            environment = {
                "TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task}),
                "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
                "KERAS_DISTRIBUTION_PROCESS_ID": str(number),
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": addresses[0],
            }
            process = Process(as_worker, work, *arguments, environment=environment, directory=folder)
            processes.append(running.enter_context(process))
        yield processes


def as_worker(work, *arguments):
    """In such a process: begin with the engine, which the parent does not have."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.distribute.MultiWorkerMirroredStrategy().scope():
            assert 2 == process_group.count()
            work(*arguments)
    else:
        import jax

        keras.distribution.initialize()
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        assert 2 == process_group.count()
        work(*arguments)
        # An interpreter does so at its end, a fork does not.
        jax.distributed.shutdown()


def ends(processes):
    """Their exit codes, and what they said."""
    results = [process.result(seconds=480) for process in processes]
    return [result.returncode for result in results], [result.stdout + result.stderr for result in results]


def distilled(loss=None, **options):
    """A Distiller and its logs. CWTM, its loss unless told otherwise, normalises weights over each batch."""
    keras.utils.set_random_seed(3)
    x, y = make_blobs()
    teacher, student = classifier(), classifier()
    # The first half of each batch is taught with far more confidence than the second.
    teacher.layers[-1].kernel.assign(4 * teacher.layers[-1].kernel)
    loss = loss or keras_ban.losses.ConfidenceWeighted()
    distiller = keras_ban.Distiller(student=student, teacher=teacher, distillation_loss=loss)
    distiller.compile(keras.optimizers.SGD(0.5, momentum=0.9), crossentropy(), metrics=["accuracy"])
    options = {"batch_size": 36, "epochs": 2, "shuffle": False, "verbose": 0, **options}
    weights = np.linspace(0.5, 1.5, 96).astype("float32")
    logs = distiller.fit(x, y, sample_weight=weights, validation_data=(x[:42], y[:42]), **options).history
    return distiller, logs


def sequence(directory, seed=1, **arguments):
    result = keras_ban.BornAgainSequence(
        classifier(),
        generations=1,
        distillation_loss=keras_ban.losses.ConfidenceWeighted(),
        directory=directory,
        seed=seed,
        keep_soft_targets=directory is not None,
        **arguments,
    )
    result.compile("adam", crossentropy(), metrics=["accuracy"])
    return result


def fit(trained, **options):
    x, y = make_blobs()
    options = {"batch_size": 36, "epochs": 3, "verbose": 0, "validation_data": (x[:42], y[:42]), **options}
    return trained.fit(x, y, **options)


def as_one_does(expected, actual):
    for e, a in zip(expected, actual, strict=True):
        np.testing.assert_allclose(a, e, rtol=2e-5, atol=2e-6)  # float32, and sums in another order


def keep(name, logs, weights):
    """What a worker found, for the parent to read."""
    arrays = {f"log {key}": np.array(each) for key, each in logs.items()}
    arrays |= {f"weight {index:02d}": each for index, each in enumerate(weights)}
    np.savez(f"{name}-{process_group.index()}.npz", **arrays)


def distilled_beside_unlabeled():
    """Batches of labeled examples, of both kinds, and of unlabeled inputs."""
    return distilled(keras_ban.losses.KnowledgeDistillation(), unlabeled=make_blobs(2)[0][:84])


def of_controls(history):
    """What the controls of a sequence scored, by name."""
    controls = history.controls
    found = {f"{record.name} {name}": value for record in controls.records for name, value in record.metrics.items()}
    return {**found, "longer": controls.longer.scores.nll, "independents": controls.ensemble.nll}


def work_together():
    distiller, logs = distilled_beside_unlabeled()
    keep("unlabeled", logs, values(distiller.student))
    distiller, logs = distilled()
    keep("distilled", logs, values(distiller.student))
    keep("shuffled", fit(distiller, epochs=1, validation_data=None).history, values(distiller.student))

    trained = sequence("run", controls=("longer", "independent"))
    history = fit(trained, shuffle=False)
    keep("controls", of_controls(history), [])
    scored = trained.evaluate(*make_blobs())
    tested = {"tested": [each.scores.accuracy for each in scored.records], "seconds": history.records[1].seconds}
    keep("sequence", {**history.records[1].logs, **history.records[1].metrics, **tested}, values(trained.models[1]))
    assert os.path.exists("run/.lock") and 2 == process_group.count()

    seeds = process_group.gather(entropy_of(None, seed=None, resume=True), "compare seeds").tolist()
    assert seeds[0] == seeds[1]

    with pytest.raises(ValueError, match="2 devices, but batch_size=35 does not divide"):
        fit(sequence(None), batch_size=35)

    said = "of worker 1" if process_group.index() == 1 else "Worker 1 of 2 (counted from 0) failed to do their part"
    with pytest.raises((ArithmeticError, RuntimeError), match=re.escape(said)), process_group.together("do their part"):
        if process_group.index() == 1:
            raise ArithmeticError("of worker 1")

    np.random.seed(process_group.index())
    distiller = keras_ban.Distiller(student=classifier(), label_weight=1)
    distiller.compile("sgd", crossentropy())
    with pytest.raises(ValueError, match="have different random numbers"):
        distiller.fit(*make_blobs(), batch_size=32, verbose=0)
    print("together to the end")


@not_on_torch
@pytest.mark.new_process
def test_two_processes_train_and_keep_a_run_as_one_does(tmp_path):
    with two_workers(work_together, folder=tmp_path) as processes:
        pairs = {"distilled": distilled(), "unlabeled": distilled_beside_unlabeled()}
        alone = sequence(tmp_path / "alone", controls=("longer", "independent"))
        history = fit(alone, shuffle=False)
        scored = alone.evaluate(*make_blobs())
        codes, said = ends(processes)

    assert [0, 0] == codes, "\n".join(said)
    assert all("together to the end" in each for each in said)
    found = {
        name: [dict(np.load(tmp_path / f"{name}-{number}.npz")) for number in range(2)]
        for name in (*pairs, "sequence", "shuffled", "controls")
    }
    for of_workers in found.values():
        assert list(of_workers[0]) == list(of_workers[1])
        for name in of_workers[0]:
            np.testing.assert_array_equal(of_workers[0][name], of_workers[1][name], err_msg=name)
    for name, (distiller, logs) in pairs.items():
        there = found[name][0]
        as_one_does([logs[each] for each in sorted(logs)], [there[f"log {each}"] for each in sorted(logs)])
        as_one_does(values(distiller.student), [value for each, value in there.items() if each.startswith("weight")])
    sequence_there = found["sequence"][0]
    expected = of_controls(history)
    as_one_does(expected.values(), [found["controls"][0][f"log {name}"] for name in expected])
    record = history.records[1]
    expected = {**record.logs, **record.metrics}
    as_one_does(expected.values(), [sequence_there[f"log {name}"] for name in expected])
    as_one_does(values(alone.models[1]), [v for name, v in sequence_there.items() if name.startswith("weight")])
    assert [each.scores.accuracy for each in scored.records] == sequence_there["log tested"].tolist()
    # Which each process wrote a part of; read as NumPy reads it, and as it is checked.
    soft_targets = np.load(tmp_path / "run" / "soft-targets-00.npy", mmap_mode="r")
    as_one_does(np.load(tmp_path / "alone" / "soft-targets-00.npy"), soft_targets)
    keras_ban.SoftTargets.load(tmp_path / "run" / "soft-targets-00.npy").check(make_blobs()[0])
    # It is a run like any other.
    assert 2 == len(keras_ban.BornAgainSequence.load(tmp_path / "run").models)
    assert not list((tmp_path / "run").glob(".*.partial"))


def be_killed(worker):
    class Die(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if (worker, 1) == (process_group.index(), epoch):
                os.kill(os.getpid(), signal.SIGKILL)

    fit(sequence("run"), shuffle=False, callbacks=lambda generation: [Die()] if generation == 1 else [])


def go_on():
    trained = sequence("run")
    fit(trained, shuffle=False)
    keep("resumed", {}, values(trained.models[1]))


@not_on_torch
@pytest.mark.slow
@pytest.mark.new_process
@pytest.mark.parametrize("worker", [0, 1])
def test_where_a_worker_is_killed_the_other_ends_and_says_how_to_go_on(tmp_path, worker):
    with two_workers(be_killed, worker, folder=tmp_path) as processes:
        codes, said = ends(processes)

    assert -signal.SIGKILL == codes[worker]
    assert 0 != codes[1 - worker]
    if BACKEND != "jax" or worker == 1:
        # JAX ends who has lost the first process by itself, and there is no saying anything more.
        assert "start all of them again" in said[1 - worker]
        assert f"{tmp_path / 'run'} keeps generation 0" in said[1 - worker]

    with two_workers(go_on, folder=tmp_path) as processes:
        codes, said = ends(processes)

    assert [0, 0] == codes, "\n".join(said)
    alone = sequence(None)
    fit(alone, shuffle=False)
    for number in range(2):
        as_one_does(values(alone.models[1]), np.load(tmp_path / f"resumed-{number}.npz").values())


def test_one_process_alone_is_one_worker():
    assert (1, 0, True) == (process_group.count(), process_group.index(), process_group.is_chief())
    assert [[5, 7]] == process_group.gather(np.array([5, 7]), "say what they have").tolist()
    assert 3 == process_group.alone(lambda: 3)


def test_who_waits_for_the_others_does_not_wait_for_ever(monkeypatch):
    import threading

    monkeypatch.setattr(process_group, "WAIT_SECONDS", 0.1)
    never = threading.Event()

    with pytest.raises(RuntimeError, match="(?s)to come, and not all came within 0.1 seconds.*start all of them again"):
        process_group._bounded(never.wait, "come")
    never.set()
