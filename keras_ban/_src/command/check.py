"""`keras-ban check RUN`."""

import keras

from keras_ban._src.command.stored_runs import read
from keras_ban._src.files import model_file
from keras_ban._src.history.controls import planned
from keras_ban._src.runs import epochs
from keras_ban._src.runs.manifest_file import MODEL, fault_of_file


def run(arguments):
    """Print what is in a run. Return 0 if it is intact, 1 if not."""
    stored = read(arguments.run)
    lines, intact = [], True
    for entry in [*stored.entries, *stored.controls]:
        folder, noted = entry["folder"], entry["files"]
        faults = faults_of(stored.path / folder, noted)
        lines.append((f"{folder}/{MODEL}", noted[MODEL]["bytes"], "; ".join(faults) or "ok"))
        intact = intact and not faults
    # It checks the form of the records.
    history = stored.history() if intact else None
    try:
        _, about = epochs.read(stored.epoch_file) or (None, None)
        fault = "is of another run" if about is not None and about.get("run") != stored.identity else None
    except ValueError as error:
        about, fault = None, str(error).removeprefix("it ").removeprefix(f"{stored.epoch_file} ")
    if about is not None or fault is not None:
        size = stored.epoch_file.stat().st_size
        lines.append((stored.epoch_file.name, size, f"{fault}: `fit` starts the generation again" if fault else "ok"))
        about, intact = (None, False) if fault else (about, intact)
    _print(lines)
    for path in stored.unnamed_folders:
        print(f"note: run.json does not name {path.name}. `fit` renames it, and does not use it")
    state = state_of(stored, about, history) if history is not None else "generations are damaged, which `fit` refuses"
    print(f"{arguments.run}: {'intact' if intact else 'not intact'}, {state}")
    return 0 if intact else 1


def faults_of(folder, noted):
    """Return what is wrong with the files of a generation, by their sizes and checksums in the manifest."""
    faults = []
    for name, each in noted.items():
        fault = fault_of_file(folder / name, each)
        if fault is not None:
            faults.append(f"{name} {fault}")
    if not faults:
        try:
            model_file.check_form(folder / MODEL)
        except ValueError as error:
            faults.append(str(error).removeprefix(f"{folder}/"))
    return faults


def state_of(stored, about, history):
    """Return whether a run is finished, or what `fit` continues with. `about` describes the epoch file."""
    trained = len(stored.entries)
    has = "no generation is finished" if not trained else f"generations 0 to {trained - 1} are finished"
    has = "generation 0 is finished" if trained == 1 else has
    if stored.finished:
        return f"finished: {trained} model{'s' * (trained != 1)}"
    name, key = _next(stored, history)
    fits = about is not None and about["generation"] == key and about["keras"] == keras.__version__
    if fits and about.get("stopped"):
        name += f", which a callback ended after epoch {about['epochs']}"
    elif fits:
        name += f" after its epoch {about['epochs']}"
    return f"not finished: {has}, `fit` continues with {name}"


def _next(stored, history):
    """Return `(the name, the key in the epoch file)` of the model that is trained next, in the order of `fit`."""
    begun_with, trained = stored.manifest["begun_with"], len(stored.entries)
    generations, controls = begun_with.get("generations", trained), begun_with.get("controls", [])
    is_distilled = bool(history.records) and history.records[-1].distilled
    if not is_distilled and not stored.controls:
        if trained <= generations:
            may_end = begun_with["fit"].get("patience") is not None and trained > 1
            return f"generation {trained}{' (unless `patience` ends the generations)' if may_end else ''}", trained
        if begun_with.get("distill_ensemble"):
            return "the student distilled from the ensemble", trained
    done = {entry["control"] for entry in stored.controls}
    left = [each.name for each in planned(controls, len(history.members)) if each.name not in done]
    return (f"the control {left[0]}", left[0]) if left else ("the scores of the ensemble", None)


def _print(lines):
    """Print lines of a name, a number of bytes and a text, in columns."""
    rows = [(name, f"{size:,} bytes", text) for name, size, text in lines]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    for name, size, text in rows:
        print(f"{name:<{widths[0]}}  {size:>{widths[1]}}  {text}")
