"""Sequences for KerasTuner: copy this for a study of your own; study.py is one (pip install ".[study]").

    lineages = Lineages({"plain": {"label_weight": 1.0}, "half": {"label_weight": 0.5}}, range(3), make, "runs/study")
    tuner = LineageTuner(EveryCombination("val_loss"), lineages, directory="runs", project_name="tuner")
    tuner.search(x, y, epochs=20, validation_data=(x_val, y_val))

A lineage is a sequence with a setting and a seed, and has a run directory of its own. That is where the truth is: the
same script again loads the lineages that are finished, and goes on after the last epoch of those that are not, whatever
KerasTuner remembers. For a search that draws values, leave out `EveryCombination`, derive `LineageTuner` from
`keras_tuner.BayesianOptimization` (or `RandomSearch`), and draw `hp.Float("label_weight", 0, 1)` in `build`.
"""

import itertools
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

import keras
import keras_tuner


class Lineages(keras_tuner.HyperModel):
    """What KerasTuner asks for a sequence, and for its value.

    Args:
        settings: a dict of names and arguments of `BornAgainSequence`.
        seeds: whole numbers; each setting is trained with each.
        make: a function `make(**arguments)` that returns a compiled `BornAgainSequence`.
        directory: where the lineages' run directories are kept.
        choose_by: `"generation"`: a lineage counts by its best generation's validation loss; `"ensemble"`: by that of
            all its generations averaged.
        verbose: whether a line tells of each lineage that is finished.

    Attributes:
        histories: the `BornAgainHistory` of each lineage that this process ran, by `(setting, seed)`.
    """

    def __init__(self, settings, seeds, make, directory, choose_by="generation", verbose=True):
        super().__init__()
        self.settings, self.seeds, self.make = settings, list(seeds), make
        self.directory, self.choose_by, self.verbose = pathlib.Path(directory), choose_by, verbose
        self.histories = {}

    def build(self, hp):
        # Declared first, so that every setting has a figure of one seed before any has one of the next.
        seed, setting = hp.Choice("seed", self.seeds), hp.Choice("setting", list(self.settings))
        return self.make(**self.settings[setting], seed=seed, directory=self.lineage(setting, seed))

    def fit(self, hp, sequence, *args, **kwargs):
        setting, seed = hp.get("setting"), hp.get("seed")
        history = sequence.fit(*args, **kwargs)
        self.histories[setting, seed] = history
        value = validation_loss(history, self.choose_by)
        if self.verbose:
            print(f"{setting}, seed {seed}: validation loss {value:.4f}", flush=True)
        return {"val_loss": value}

    def lineage(self, setting, seed):
        """A lineage's run directory."""
        return self.directory / f"{setting},seed={seed}"


def validation_loss(history, choose_by):
    """The figure by which a lineage is chosen: a negative log-likelihood on the validation data, in nats."""
    if choose_by == "ensemble":
        return history.ensemble.nll
    return history.records[history.best_generation].metrics["val_loss"]


class LineageTuner(keras_tuner.Tuner):
    """A `Tuner` takes nothing but a `keras.Model` from `build`, unless `run_trial` is overridden."""

    def run_trial(self, trial, *args, **kwargs):
        keras.utils.clear_session()
        try:
            sequence = self.hypermodel.build(trial.hyperparameters)
            return self.hypermodel.fit(trial.hyperparameters, sequence, *args, **kwargs)
        except FloatingPointError as error:  # It became NaN: a result, and the other lineages go on.
            raise keras_tuner.errors.FailedTrialError(str(error)) from error
        except Exception as error:  # KerasTuner would note any other error too, and go on.
            raise keras_tuner.errors.FatalError(str(error)) from error


class EveryCombination(keras_tuner.Oracle):
    """Every combination of the hyperparameters' values once, as `keras_tuner.GridSearch` has it (without conditions).

    That one (1.4.8) keeps all workers but one waiting, and a study that was killed ends in a KeyError.
    """

    def __init__(self, objective, **kwargs):
        # A lineage that became NaN says nothing of the next.
        super().__init__(objective, max_consecutive_failed_trials=None, **kwargs)

    def populate_space(self, trial_id):
        begun = [trial.hyperparameters.values for trial in self.trials.values()]
        space = self.hyperparameters.space
        for combination in itertools.product(*(each.values for each in space)):
            values = {each.name: value for each, value in zip(space, combination, strict=True)}
            if values not in begun:
                return {"status": "RUNNING", "values": values}
        return {"status": "STOPPED", "values": None}


class WorkerError(RuntimeError):
    """A process of a search ended before its time."""


def search_in_processes(workers, command):
    """Run a script in several processes, which share one search by KerasTuner's own means: a chief, and workers.

    The script has to do nothing but call `LineageTuner.search`, in each. To do it on several machines, set the same
    three variables there, with the chief's address, and a directory that all of them see.

    Args:
        workers: how many processes train; the chief, one more, only hands out lineages.
        command: the script's command line, a list.

    Raises:
        WorkerError: a process ended before its time; the others are ended then.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {**os.environ, "KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}
    names = ["chief", *(f"worker{number}" for number in range(workers))]
    processes = {}
    try:
        for name in names:
            processes[name] = subprocess.Popen(command, env={**variables, "KERASTUNER_TUNER_ID": name})
        running = set(names)
        # The chief waits on for up to 20 seconds when the last lineage is finished. Nobody needs it then.
        while running - {"chief"}:
            time.sleep(0.1)
            ended = {name: processes[name].poll() for name in running if processes[name].poll() is not None}
            failed = [f"{name} (code {code})" for name, code in ended.items() if code != 0]
            if failed:
                raise WorkerError(f"{', '.join(failed)} ended before its time, and the others were ended.")
            running -= set(ended)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait()


def end_with(parent):
    """End this process, as SIGTERM does, when the process that started it is gone: it would train on, unseen."""
    # On Ctrl-C the parent ends it, by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
