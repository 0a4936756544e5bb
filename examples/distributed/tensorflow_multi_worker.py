"""Born-again generations of one model, trained by several TensorFlow processes together.

    KERAS_BACKEND=tensorflow python examples/distributed/tensorflow_multi_worker.py --directory runs/tensorflow

The script starts two processes of itself on this machine. Each is given all of the data, and the strategy gives it its
rows of each batch of 64; the first writes the run directory. Run it again, and it goes on where it was stopped.

On many machines: start the script once on each, with `EXAMPLE_WORKER` set and a `TF_CONFIG` as `environment` writes it,
where `cluster` lists an address of each machine and `index` says which of them this one is. `--directory` is then a
folder on a file system that all of them share. GPUs are found by themselves: `BATCH_SIZE` is that of all together, and
must be a multiple of their number. On one machine with several GPUs one process with a `tf.distribute.MirroredStrategy`
is enough: take that in place of `MultiWorkerMirroredStrategy`, and start no other.
"""

import json
import os

import launch

BATCH_SIZE = 64


def environment(number, ports):
    """What tells one of the processes who it is."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    config = {"cluster": cluster, "task": {"type": "worker", "index": number}}
    return {"KERAS_BACKEND": "tensorflow", "TF_CONFIG": json.dumps(config)}


def work(arguments):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    import tensorflow as tf

    # Before anything else is computed. Who is lost is noticed after so many seconds.
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=600)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)

    import keras

    import keras_ban

    train, validation, test = launch.load_digits()
    # The model, `fit` and `evaluate`: all in the scope.
    with strategy.scope():
        sequence = keras_ban.BornAgainSequence(
            launch.build_model(), generations=arguments.generations, directory=arguments.directory, seed=0
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        sequence.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
        sequence.fit(*train, batch_size=BATCH_SIZE, epochs=arguments.epochs, validation_data=validation, verbose=2)
        # Each process scores all of the data by itself; one of them tells.
        history = sequence.evaluate(*test)
    if strategy.cluster_resolver.task_id == 0:
        print(f"{arguments.processes} processes, {strategy.num_replicas_in_sync} devices")
        print(history.summary())


if __name__ == "__main__":
    launch.main(__doc__, "runs/tensorflow_multi_worker", work, environment)
