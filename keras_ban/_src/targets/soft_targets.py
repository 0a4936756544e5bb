"""`SoftTargets`: what a teacher says of a set of data, computed once."""

import operator
import pathlib
import warnings
from typing import Any, Literal, Self

import keras
import numpy as np

from keras_ban._src import checks, hints
from keras_ban._src.backend import process_group
from keras_ban._src.data.dataset import no_pairing
from keras_ban._src.data.fingerprints import data_fingerprint, layer_fingerprint
from keras_ban._src.data.kinds import as_data
from keras_ban._src.files import row_file
from keras_ban._src.losses.outputs import check_stored
from keras_ban._src.targets import augmented_views, computation, teacher_rows, top_k_rows
from keras_ban._src.targets.stored_rows import COMPUTE_AGAIN, ROWS_AT_ONCE, StoredRows

_DTYPES = ("float16", "float32", "float64")


class SoftTargets(StoredRows):
    """A teacher's outputs on fixed data, one row per example, in memory or in a memory-mapped file.

    A teacher does not change while its student trains. So on data that do not change it needs to run only once.
    `from_teacher` computes soft targets, `load` opens a file of them.

    Rows are in the order of the data. A 64-bit key of each example is stored with its row, and training on other
    examples, or in another order, raises an error. Or rows are found by a key that a dataset gives with each example,
    in any order. `docs/soft_targets.md` describes keys, shards, top-k, views and files.

    `len(targets)` is the number of examples. `targets[i]` is one dense row. `targets[i:j]`, or an index array, gives
    another `SoftTargets`. `numpy.asarray(targets)` is `to_dense()`.

    Example:

    ```python
    targets = keras_ban.SoftTargets.from_teacher(teacher, x, path="targets.npy")
    distiller = keras_ban.Distiller(student=student)
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    distiller.fit(x, y, soft_targets=targets, epochs=10)
    ```

    Attributes:
        shape: the shape of the dense targets, `(examples, ..., classes)`; with views `(examples, views, ..., classes)`.
        views: the number of views; `None` without an augmentation.
        dtype: the dtype of the stored values.
        top_k: the number of logits stored per example; `None`: all.
        from_logits: whether the teacher gave logits; otherwise probabilities.
        covered_mass: `{"mean", "first_percentile"}` of the probability of the stored classes; 1 for dense targets.
        keys: uint64 `(examples,)`: hashes of the examples; with `by_key` the keys of the data, whole numbers as they
            are and texts as their BLAKE2b hash.
        by_key: whether rows are found by a key of the data, not by position.
        teacher_name, teacher_fingerprint: its name, and the SHA-256 of its weights and preprocessor (function: `None`).
        data_fingerprint: the SHA-256 of the keys in their order.
        version: the version of keras_ban that computed them.
    """

    @classmethod
    def from_teacher(
        cls,
        teacher: hints.Teacher,
        x: hints.Data,
        batch_size: int = 32,
        top_k: int | None = None,
        dtype: Literal["float16", "float32", "float64"] | None = None,
        path: hints.Path | None = None,
        verbose: hints.Verbose = "auto",
        from_logits: bool | None = None,
        augmentation: hints.Layers | None = None,
        views: int | None = None,
    ) -> Self:
        """Run the teacher once over the data, in inference mode.

        Args:
            teacher: a trained `keras.Model` with one output `(batch, ..., classes)`, for instance an `EnsembleModel`;
                or a function from a batch of inputs (NumPy arrays) to such an output (see `docs/soft_targets.md`).
            x: inputs of any kind (see `docs/data.md`), in the same order each time they are read; or a dataset in any
                order whose `y` is `{"labels": y, "key": key}`. Labels and weights are not read.
            batch_size: the number of examples in a batch, for arrays.
            top_k: the number of logits to store per example; `None`: all.
            dtype: `"float16"`, `"float32"` or `"float64"`. `None`: float32, or float16 with `top_k`.
            path: a file to write. It appears when it is complete. Memory holds only the keys, 8 bytes per example
                (with `top_k` and `verbose` also the covered mass). An existing file of soft targets is replaced, other
                files are not. If several workers train together, all call this with the same data and path. Each runs
                the teacher on its part of the batches, and they write one file. Without a path each computes all rows.
            verbose: 0 or 1: Keras's progress bar, and with `top_k` the covered mass; `"auto"` is 1.
            from_logits: whether the teacher gives logits. `None`: found from its outputs on the first batch.
            augmentation: layers that make the views, as in `Distiller`. They must draw from `keras.random.
                SeedGenerator`s that they hold, and not mix examples.
            views: the number of views per example; 1 if there is an `augmentation`.

        Returns:
            `SoftTargets`; memory-mapped if `path` is given.

        Raises:
            TypeError: `teacher` is no model and no function, or returns no array; or `augmentation` is not a layer.
            ValueError: another argument is not as above; the teacher has several outputs, outputs of changing shape,
                or outputs of NaN; the data have no fixed order and no keys, or no end; a key occurs twice; or the seeds
                of the augmentation do not determine what it makes.
        """
        teacher = teacher_rows.as_teacher(teacher)
        augmentation, views = teacher_rows.check_views(augmentation, views)
        checks.check_count("batch_size", batch_size)
        if top_k is not None:
            checks.check_count("top_k", top_k)
        if from_logits is not None:
            from_logits = checks.check_flag("from_logits", from_logits)
        if dtype is not None and (not isinstance(dtype, str) or dtype not in _DTYPES):
            raise ValueError(f"`dtype` must be one of {_DTYPES} or None, received: {dtype!r}.")
        if path is not None:
            path = checks.check_path("path", path)
            row_file.check_may_replace(pathlib.Path(path))
        data = as_data(x, batch_size=batch_size, models=(teacher,))
        verbose = process_group.is_chief() and (verbose == "auto" or bool(verbose))
        options = {"top_k": top_k, "dtype": dtype, "from_logits": from_logits}
        made = computation.compute(teacher, data, batch_size, path, verbose, augmentation, views, **options)
        targets = cls(*made) if path is None else cls.load(path)
        if top_k is not None and verbose:
            print(targets.describe_coverage())
        return targets

    @property
    def shape(self) -> tuple[int, ...]:
        rows = self._rows.shape
        return rows if self.top_k is None else (*rows, self._description["classes"])

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self._description["dtype"])

    @property
    def top_k(self) -> int | None:
        return self._description["top_k"]

    @property
    def from_logits(self) -> bool:
        return self._description["from_logits"]

    @property
    def views(self) -> int | None:
        return self._description["views"]

    @property
    def teacher_name(self) -> str:
        return self._description["teacher_name"]

    @property
    def teacher_fingerprint(self) -> str | None:
        return self._description["teacher_fingerprint"]

    @property
    def data_fingerprint(self) -> str:
        return data_fingerprint(self._description["example_form"], self.keys)

    @property
    def version(self) -> str:
        return self._description["version"]

    @property
    def covered_mass(self) -> dict[str, float]:
        if self.top_k is None:
            return {"mean": 1.0, "first_percentile": 1.0}
        parts = [self._rows[i : i + ROWS_AT_ONCE]["log_rest"] for i in range(0, len(self), ROWS_AT_ONCE)]
        covered = -np.expm1(np.concatenate(parts).astype("float64"))
        return {"mean": float(covered.mean()), "first_percentile": float(np.percentile(covered, 1))}

    def __getitem__(self, index: Any) -> Any:
        try:
            index = operator.index(index)
        except TypeError:
            return self._part(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} examples, received the index {index}.")
        index = index % len(self)
        return self._dense(self._rows[index : index + 1])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.to_dense(), dtype=dtype)

    def __repr__(self) -> str:
        kept = "" if self.top_k is None else f", top_k={self.top_k}"
        return f"<SoftTargets shape={self.shape}, dtype={self.dtype}{kept}, teacher={self.teacher_name!r}>"

    def to_dense(self) -> np.ndarray:
        """All soft targets in memory, `(examples, ..., classes)`: logits or probabilities, as the teacher gave them."""
        self.check_content()
        return self._dense(self._rows[:])

    def batch(self, rows: Any, view: int | None = None) -> Any:
        """The soft targets of a training batch, for a slice or an index array: dense, or with `top_k` a dict."""
        found = np.asarray(self._rows[rows] if view is None else self._rows[rows, view])
        return found if self.top_k is None else top_k_rows.columns(found)

    def batch_and_seeds(self, rows: Any, epoch: int) -> tuple[Any, Any]:
        """`batch` of view `epoch mod views`, and the seeds that make it again; the seeds are `None` without views."""
        if self.views is None:
            return self.batch(rows), None
        view = epoch % self.views
        seeds = augmented_views.view_seeds(self.keys[rows], view, self._description["generators"])
        return self.batch(rows, view), seeds

    def verify(
        self,
        teacher: hints.Teacher,
        x: hints.Data,
        sample: int = 256,
        batch_size: int = 32,
        augmentation: hints.Layers | None = None,
    ) -> float:
        """Compute a sample of rows again, and return the largest difference.

        Args:
            teacher: the teacher of the rows.
            x: the data, as in `from_teacher`.
            sample: the number of examples, spread evenly over the data.
            batch_size: the number of examples in a batch.
            augmentation: the layer that made the views, if there are views.

        Returns:
            The largest absolute difference, a float: of the outputs, or with `top_k` of the probabilities of the stored
            classes. It is of the size of the dtype's rounding, or large if teacher, data or order are others.

        Raises:
            ValueError: `x` holds another number of examples, or `augmentation` is another layer.
        """
        teacher = teacher_rows.as_teacher(teacher)
        augmentation, _ = teacher_rows.check_views(augmentation, None)
        self.check_augmentation(augmentation)
        self.check_content()
        checks.check_count("batch_size", batch_size)
        wanted = np.unique(np.linspace(0, len(self) - 1, checks.check_count("sample", sample)).astype("int64"))
        again, rows = computation.compute_again(teacher, x, wanted, self, batch_size, augmentation)
        if again.shape[1:] != self.shape[1:]:
            raise ValueError(
                f"The teacher gives outputs of shape {again.shape[1:]}, the soft targets are of {self.shape[1:]}: they "
                "come from another teacher."
            )
        return teacher_rows.largest_difference(again, self._rows[rows], self.from_logits)

    def pair(self, dataset: Any) -> Any:
        """Put these soft targets beside the labels of a dataset.

        - `keras.utils.PyDataset`: batch `i` gets the rows from `i * size of batch 0`, in any order of reading and any
          number of workers. Each batch is checked against the keys.
        - torch `DataLoader`: by the index in its dataset, so it may shuffle. Each batch is checked.
        - `tf.data.Dataset`: in the order in which it comes, without Python in the pipeline. The first batch is checked.
          Shuffle after pairing: `pair(dataset).shuffle(...)`.
        - With `by_key`, each row is found by its key, for these and for Grain's `MapDataset` and `IterDataset`.

        Args:
            dataset: yields batches `(x, y)` or `(x, y, sample_weight)`, in the order that `from_teacher` saw. With
                `by_key` in any order, and `y` is `{"labels": y, "key": key}`, or `{"key": key}` without labels.

        Returns:
            A dataset of the same kind whose `y` is `{"labels": y, "soft_targets": ...}`, for `Distiller.fit`.

        Raises:
            TypeError: `dataset` is of another kind.
            ValueError: it holds other data. By key: it has no keys, or, when it is read, a key without a row (a
                `tf.data.Dataset` raises `InvalidArgumentError` with the same message).
        """
        self.check_content()
        data = as_data(dataset)
        if not data.yields_batches:
            raise no_pairing(self, dataset)
        return data.with_soft_targets(self).dataset

    def check_augmentation(self, augmentation: hints.Layers | None) -> None:
        """Raise `ValueError` unless `augmentation` makes the views of these soft targets; `None`: no views."""
        if self.views is None and augmentation is None:
            return
        if self.views is None:
            raise ValueError(
                "The soft targets are of the examples as they are, but `augmentation` makes other views of them: the "
                "teacher must have seen what the student sees. Compute them of views, `SoftTargets.from_teacher("
                "teacher, x, augmentation=augmentation, views=...)`, or let the teacher run at each step, without."
            )
        if augmentation is None:
            raise ValueError(
                f"The soft targets are of {self.views} views: pass the `augmentation` that made them to the Distiller."
            )
        if layer_fingerprint(augmentation) != self._description["augmentation_fingerprint"]:
            raise ValueError(
                f"The soft targets are of views that another `augmentation` made, not {augmentation!r} as it is "
                f"configured. {COMPUTE_AGAIN}"
            )

    def check_for(self, loss: Any) -> None:
        """Raise `ValueError` if a distillation loss cannot take them, and warn if top-k is a poor approximation."""
        check_stored(loss, self.from_logits)
        if self.top_k is None:
            return
        top_k_rows.check_loss(loss)
        temperature = getattr(loss, "temperature", 1.0)
        if temperature != 1:
            warnings.warn(
                f"The soft targets are top-k, which is for temperature 1, but the distillation loss has temperature="
                f"{temperature}. {self.describe_coverage()} Use temperature=1, or dense soft targets.",
                stacklevel=3,
            )

    def _dense(self, rows):
        if self.top_k is None:
            return np.array(rows)
        return keras.ops.convert_to_numpy(top_k_rows.expand(top_k_rows.columns(rows), self._description["classes"]))

    def describe_coverage(self) -> str:
        """The covered mass, in a sentence."""
        covered = self.covered_mass
        return (
            f"The {self.top_k} classes kept of {self._description['classes']} cover {covered['mean']:.2%} of the mass "
            f"at temperature 1 (mean; 1st percentile: {covered['first_percentile']:.2%})."
        )
