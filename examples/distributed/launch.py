"""What the examples share: to start several processes on this machine and see them to their end, data and a model.

On many machines a scheduler does this (Slurm, Kubernetes, `torchrun`): it starts one process a machine or device, and
gives each what `environment` gives here.
"""

import argparse
import os
import socket
import subprocess
import sys
import time

WORKER = "EXAMPLE_WORKER"


def main(description, directory, work, environment):
    """The command line of an example: the work of one process, or the start of all of them.

    Args:
        description: the example's docstring.
        directory: where the run is kept, if nothing else is said.
        work: a function of the arguments, what each process does.
        environment: a function of a process's number, from 0, and of a free port for each process, that gives the
            environment variables by which it knows who it is.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--directory", default=directory, help="where the run is kept (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="on this machine (default: 2)")
    parser.add_argument("--generations", type=int, default=2, help="students after the first teacher (default: 2)")
    parser.add_argument("--epochs", type=int, default=5, help="for each generation (default: 5)")
    arguments = parser.parse_args()
    if WORKER in os.environ:
        work(arguments)
    else:
        ports = free_ports(arguments.processes)
        sys.exit(launch(arguments.processes, lambda number: environment(number, ports)))


def free_ports(count):
    """Ports of this machine that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def launch(count, environment, timeout=600, grace=60):
    """Run this script in `count` processes, with the arguments that it was given.

    Args:
        count: how many.
        environment: a function from a process's number, from 0, to a dict of its own environment variables.
        timeout: how long they may take, in seconds.
        grace: when one has failed, how long the others may take to notice it themselves, in seconds, before they are
            stopped.

    Returns:
        The exit code of the first that failed; 0: none; 124: they took too long. For `sys.exit`.
    """
    command = [sys.executable, *sys.argv]
    processes = [
        subprocess.Popen(command, env={**os.environ, WORKER: str(number), **environment(number)})
        for number in range(count)
    ]
    deadline, failed = time.monotonic() + timeout, None
    try:
        while any(process.poll() is None for process in processes):
            for number, process in enumerate(processes):
                if failed is None and process.poll():
                    failed = process.poll()
                    print(f"Process {number} of {count} ended with exit code {failed}.", file=sys.stderr, flush=True)
                    deadline = min(deadline, time.monotonic() + grace)
            if time.monotonic() > deadline:
                if failed is None:
                    failed = 124
                    print(f"The processes took longer than {timeout} seconds.", file=sys.stderr, flush=True)
                break
            time.sleep(0.05)
        return failed or next((process.returncode for process in processes if process.returncode), 0)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def load_digits():
    """Handwritten digits that scikit-learn brings along: `(x, y)` to train on (1,024), to validate (256), to test."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x, y = digits.data[order].astype("float32") / 16, digits.target[order]
    return [(x[part], y[part]) for part in (slice(0, 1024), slice(1024, 1280), slice(1280, None))]


def build_model():
    """A small dense network that returns logits."""
    import keras

    layers = [keras.layers.Dense(128, activation="relu"), keras.layers.Dropout(0.2), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((64,)), *layers])
