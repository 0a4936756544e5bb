"""Born-again generations of one model, trained by several JAX processes together.

    KERAS_BACKEND=jax python examples/distributed/jax_data_parallel.py --directory runs/jax

The script starts two processes of itself on this machine. Each is given all of the data, and trains on its rows of each
batch of 64; the first writes the run directory. Run it again, and it goes on where it was stopped.

On many machines: start the script once on each, with the environment variables that `environment` sets here, and with
`EXAMPLE_WORKER` set. `KERAS_DISTRIBUTION_JOB_ADDRESSES` is then the address of the first machine, with a port that the
others can reach, and `--directory` a folder on a file system that all of them share. On clusters that JAX knows (Slurm,
Cloud TPU) `keras.distribution.initialize()` needs none of the variables. GPUs and TPUs are found by themselves: a batch
is divided over all devices of all processes, and `BATCH_SIZE` must be a multiple of their number.
"""

import launch

BATCH_SIZE = 64


def environment(number, ports):
    """What tells one of the processes who it is."""
    return {
        "KERAS_BACKEND": "jax",
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{ports[0]}",
        "KERAS_DISTRIBUTION_NUM_PROCESSES": str(len(ports)),
        "KERAS_DISTRIBUTION_PROCESS_ID": str(number),
    }


def work(arguments):
    import keras

    # Before any model is made.
    keras.distribution.initialize()
    keras.distribution.set_distribution(keras.distribution.DataParallel())

    import jax

    import keras_ban

    train, validation, test = launch.load_digits()
    sequence = keras_ban.BornAgainSequence(
        launch.build_model(), generations=arguments.generations, directory=arguments.directory, seed=0
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sequence.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    sequence.fit(*train, batch_size=BATCH_SIZE, epochs=arguments.epochs, validation_data=validation, verbose=2)
    # Each process scores all of the data by itself; one of them tells.
    history = sequence.evaluate(*test)
    if jax.process_index() == 0:
        print(f"{jax.process_count()} processes, {jax.device_count()} devices")
        print(history.summary())


if __name__ == "__main__":
    launch.main(__doc__, "runs/jax_data_parallel", work, environment)
