"""`SoftTargets`: what a teacher says of a set of data, computed once."""

import itertools
import operator
import pathlib
import warnings

import keras
import numpy as np

from keras_ban._src import checks
from keras_ban._src.backend import process_group
from keras_ban._src.data import fit_arguments, pairing
from keras_ban._src.data.arrays import softmax
from keras_ban._src.data.fingerprints import data_fingerprint, example_form, example_keys, layer_fingerprint
from keras_ban._src.files import row_file
from keras_ban._src.targets import augmented_views, computation, key_index, teacher_rows, top_k_rows
from keras_ban._src.targets.computation import COMPUTE_AGAIN
from keras_ban._src.targets.shards import ShardRows, shards_of

_DTYPES = ("float16", "float32", "float64")
_ROWS_AT_ONCE = 4096


class SoftTargets:
    """A teacher's outputs on fixed data, one row an example, in memory or in a memory-mapped file.

    A generation's teacher never changes, so on data that never change it needs to run once, and not at each step of
    each epoch. Made by `from_teacher`, or read from a file by `load`:

    ```python
    targets = keras_ban.SoftTargets.from_teacher(teacher, x, path="targets.npy")
    distiller = keras_ban.Distiller(student=student)
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    distiller.fit(x, y, soft_targets=targets, epochs=10)
    ```

    Rows of another order are the usual mishap with stored targets. So a 64-bit key of each example is kept with its
    row, and training on arrays whose keys are not those, in that order, is refused.

    With `top_k=k` a row holds the `k` largest logits, as `log p` in float16, with their classes, and `log_rest`, the
    logarithm of the mass of all others at temperature 1. The loss is given dense logits again, where each of the
    `classes - k` others is `log_rest - log(classes - k)`: the mass left out, spread evenly, never renormalised and
    never taken as one outcome. The error, `sum |p - p_stored|` over the classes, is then at most twice the mass left
    out, and 0 where the others are alike, but for float16's rounding (2e-4 at most in each `p`). That holds at
    temperature 1, which is what born-again networks use; at others it is not bounded so, and `fit` warns. An example
    takes `4 * k + 2` bytes (`6 * k + 2` beyond 65,536 classes), and 8 for its key: 90 at `k=20` and 1,000 classes.

    With `augmentation` and `views=m` they are of `m` views of each example: outputs of the layer that depend on nothing
    but the example and the number of the view, so that training makes the very views again that the teacher saw. A
    Distiller with the same `augmentation` trains on view `e mod m` in epoch `e` (the idea of FKD, Shen & Xing, 2021,
    and of TinyViT, Wu et al., 2022). The teacher looks `m` times at each example, and a row is `m` times as large.

    Data that do not fit, and come in another order each time, give a key with each example: a dataset whose `y` is
    `{"labels": y, "key": key}`, where keys are whole numbers or texts, each once (TFDS has them with
    `read_config=tfds.ReadConfig(add_tfds_id=True)`). Rows are then found by key, in any order, of any part of the data,
    and nothing else is compared: that the example of a key is what the teacher saw is for the data to keep.
    They may be computed in shards, by any number of processes, each of a part of the data: files
    `targets-00000-of-00004.npy` and so on, which `load(folder)` opens as one.

    `len(targets)` is the number of examples. `targets[i]` is the dense row of one; `targets[i:j]`, or an index array,
    another `SoftTargets`; `numpy.asarray(targets)` is `to_dense()`.

    Attributes:
        shape: that of the dense targets, `(examples, ..., classes)`; of views `(examples, views, ..., classes)`.
        views: how many views; `None` where examples are seen as they are.
        dtype: of the values kept.
        top_k: how many logits are kept of each example; `None`: all.
        from_logits: whether the teacher gave logits; else probabilities.
        covered_mass: `{"mean", "first_percentile"}` of the probability that the kept classes have; 1 for dense targets.
        keys: uint64 `(examples,)`: fingerprints of the examples, or with `by_key` the keys that the data gave them,
            whole numbers as they are and texts as their BLAKE2b hash.
        by_key: whether rows are found by a key that the data gave, and not by position.
        teacher_name, teacher_fingerprint: its name, and the SHA-256 of its weights.
        data_fingerprint: the SHA-256 of the examples' keys in their order.
        version: the keras_ban that wrote them.
    """

    def __init__(self, rows, keys, description, path=None, texts=None):
        self._rows = rows
        # Of rows in several files, and the texts that keys are hashes of, they are read from the files when wanted.
        self._keys, self._texts, self._index = keys, texts, None
        self._description = description
        # The file that holds exactly these rows, where there is one, until its content was checked.
        self._path = path
        self._unchecked = path is not None

    @classmethod
    def from_teacher(
        cls,
        teacher,
        x,
        batch_size=32,
        top_k=None,
        dtype=None,
        path=None,
        verbose="auto",
        from_logits=None,
        augmentation=None,
        views=None,
    ):
        """Run the teacher over the data, once, in inference mode.

        Args:
            teacher: a trained `keras.Model` with one output `(batch, ..., classes)`; an `EnsembleModel`, for instance.
            x: arrays (nested too), a `keras.utils.PyDataset`, a finite `tf.data.Dataset` or a torch `DataLoader`, in an
                order that is the same each time, or in any order where a dataset's `y` is `{"labels": y, "key": key}`.
                What else a dataset yields beside the inputs is not read.
            batch_size: examples per batch, of arrays.
            top_k: keep so many logits of each example; `None` keeps all.
            dtype: `"float16"`, `"float32"` or `"float64"`. `None`: float32, or float16 with `top_k`.
            path: write a file, and keep no more of an example in memory than its key (8 bytes; with `top_k` and
                `verbose` its covered mass, too). It appears when it is complete. A file of soft targets that is there
                is replaced, any other refused. Where several workers train together, all of them call this with the
                same data and a path that all of them see; each runs the teacher on its part of the batches, and they
                write one file. (Without a path each has all rows, and computes all of them.)
            verbose: 0 or 1: Keras's progress bar, and with `top_k` the covered mass; `"auto"` is 1.
            from_logits: whether the teacher gives logits. `None`: looked up in its outputs on the first batch.
            augmentation: a `keras.layers.Layer` or `keras.Model` that makes the views, as in `Distiller`, each of an
                example alone: what mixes examples, MixUp for instance, finds none to mix. It must draw from
                `keras.random.SeedGenerator`s that it holds, as most of Keras's own layers do.
            views: how many views of each example; 1 if there is an `augmentation`.

        Returns:
            `SoftTargets`, memory-mapped where `path` is given.

        Raises:
            TypeError: `teacher` is not a `keras.Model`, or `augmentation` no layer.
            ValueError: an argument is not as above, the teacher has several outputs or gives NaN, the data have no
                fixed order and no keys, or no end, a key comes twice, or the augmentation's seeds do not determine what
                it makes.
        """
        teacher_rows.check_teacher(teacher)
        views = teacher_rows.check_views(augmentation, views)
        checks.check_count("batch_size", batch_size)
        if top_k is not None:
            checks.check_count("top_k", top_k)
        if from_logits is not None:
            from_logits = checks.check_flag("from_logits", from_logits)
        if dtype is not None and (not isinstance(dtype, str) or dtype not in _DTYPES):
            raise ValueError(f"`dtype` must be one of {_DTYPES} or None, received: {dtype!r}.")
        if path is not None:
            checks.check_path("path", path)
            row_file.check_may_replace(pathlib.Path(path))
        checks.check_not_empty(x)
        fit_arguments.check_data("x", x)
        verbose = process_group.is_chief() and (verbose == "auto" or bool(verbose))
        options = {"top_k": top_k, "dtype": dtype, "from_logits": from_logits}
        computed = computation.compute(teacher, x, batch_size, path, verbose, augmentation, views, **options)
        targets = cls(*computed) if path is None else cls.load(path)
        if top_k is not None and verbose:
            print(targets._coverage())
        return targets

    @classmethod
    def load(cls, path, mmap=True):
        """Open a file of soft targets, or a folder of shards.

        With `mmap` this takes milliseconds and no memory, however large the file. Its form is checked at once, and so
        is the content of files up to 64 MiB; that of larger ones when `fit`, `pair`, `verify` or `to_dense` first use
        it. Where rows are found by key, an index of the keys is built: in 12 bytes an example, of more than a million
        examples in a temporary file (`TMPDIR`).

        Args:
            path: a file that `save` or `from_teacher` wrote; or a folder of files that `from_teacher` wrote of data
                with keys, one a part of the data, named like `targets-00000-of-00004.npy`.
            mmap: leave the rows on disk, and read those of each batch when it is due; else read all.

        Raises:
            ValueError: a file is cut short, altered, or holds something else; a shard is missing, or of another teacher
                than the first; or a key is in two shards.
        """
        checks.check_path("path", path)
        path = pathlib.Path(path)
        shards = ShardRows(shards_of(path)) if path.is_dir() else None
        description = row_file.description_of(path) if shards is None else shards.description
        if shards is not None and not description.get("keyed"):
            raise ValueError(
                f"The shards in {path} are kept by position. Compute them of data with keys: datasets whose `y` is "
                "`{'labels': y, 'key': key}`."
            )
        if description.get("format") != teacher_rows.FORMAT:
            raise ValueError(
                f"{path} is of format {description.get('format')!r}, written by keras_ban {description['version']}: "
                f"this version reads format {teacher_rows.FORMAT}. Compute the soft targets again, or use that one."
            )
        if description.get("keyed"):
            shards = shards or ShardRows([path])
            if not mmap:
                if shards.unchecked:
                    shards.check_content()
                return cls(shards[:], shards.keys(), description, texts=list(shards.texts()))._indexed()
            return cls(shards, None, description, path)._indexed()
        rows, keys, description = row_file.read_rows(path, mmap)
        targets = cls(rows, keys, description, path if mmap else None)
        targets._unchecked = mmap and not row_file.is_small(rows)
        return targets

    def _indexed(self):
        """Itself, with the index by which rows are found, or an error that names a key that is there twice."""
        self._unchecked = getattr(self._rows, "unchecked", False)
        self._check_unique()
        return self

    def index_keys(self):
        """The index by which `rows_of` finds rows: made once in a process, of those that were loaded at once."""
        if self._index is None:
            self._index = key_index.KeyIndex(self._keys_in_parts, len(self))
        return self._index

    def _check_unique(self):
        index = self.index_keys()
        if index.twice is not None:
            self.check_content()  # A file that was damaged is not one of the same key twice.
        index.check_unique(self._texts_of_rows(), getattr(self._rows, "place", "row {}".format))

    def _keys_in_parts(self):
        return self._rows.keys_in_parts() if self._keys is None else [self._keys]

    def _texts_of_rows(self):
        if self._description.get("keyed") != "texts":
            return None
        return self._texts if self._path is None else self._rows.texts()

    def save(self, path):
        """Write a file that `load` reads; it is complete, or absent. NumPy alone reads its rows too: `numpy.load`.

        Raises:
            ValueError: there is a file of that name that holds no soft targets, or no such folder; or these are rows
                by key, and hold one twice.
        """
        checks.check_path("path", path)
        self.check_content()
        if self.by_key:
            self._check_unique()
        process_group.alone(lambda: self._write(path))  # Which other workers, where there are any, know nothing of.

    def _write(self, path):
        row_shape = self._rows.shape[1:]
        with row_file.RowWriter(path, self._rows.dtype, row_shape) as writer:
            texts = self._texts_of_rows()
            texts = None if texts is None else iter(texts)
            for i in range(0, len(self), _ROWS_AT_ONCE):
                rows = self._rows[i : i + _ROWS_AT_ONCE]
                writer.append(rows, None if texts is None else list(itertools.islice(texts, len(rows))))
            writer.commit(self.keys, self._description)

    @property
    def keys(self):
        return self._rows.keys() if self._keys is None else self._keys

    @property
    def by_key(self):
        return bool(self._description.get("keyed"))

    @property
    def shape(self):
        rows = self._rows.shape
        return rows if self.top_k is None else (*rows, self._description["classes"])

    @property
    def dtype(self):
        return np.dtype(self._description["dtype"])

    @property
    def top_k(self):
        return self._description["top_k"]

    @property
    def from_logits(self):
        return self._description["from_logits"]

    @property
    def views(self):
        return self._description["views"]

    @property
    def teacher_name(self):
        return self._description["teacher_name"]

    @property
    def teacher_fingerprint(self):
        return self._description["teacher_fingerprint"]

    @property
    def data_fingerprint(self):
        return data_fingerprint(self._description["example_form"], self.keys)

    @property
    def version(self):
        return self._description["version"]

    @property
    def nbytes(self):
        """Of the rows and the keys, in bytes."""
        return self._rows.nbytes + 8 * len(self)

    @property
    def covered_mass(self):
        if self.top_k is None:
            return {"mean": 1.0, "first_percentile": 1.0}
        parts = [self._rows[i : i + _ROWS_AT_ONCE]["log_rest"] for i in range(0, len(self), _ROWS_AT_ONCE)]
        covered = -np.expm1(np.concatenate(parts).astype("float64"))
        return {"mean": float(covered.mean()), "first_percentile": float(np.percentile(covered, 1))}

    @property
    def in_memory(self):
        """Whether the rows are in memory; else they are read from the file as they are wanted."""
        return isinstance(self._rows, np.ndarray) and not isinstance(self._rows, np.memmap)

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        try:
            index = operator.index(index)
        except TypeError:
            texts = self._texts_of_rows()
            if texts is not None:
                texts = np.fromiter(texts, "object", len(self))[index].tolist()
            return SoftTargets(self._rows[index], self.keys[index], self._description, texts=texts)
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} examples, received the index {index}.")
        index = index % len(self)
        return self._dense(self._rows[index : index + 1])[0]

    def __array__(self, dtype=None, copy=None):
        return np.array(self.to_dense(), dtype=dtype)

    def __getstate__(self):
        # A worker process opens the file, rather than being sent its content.
        state = {**self.__dict__, "_index": None}
        return {**state, "_rows": None, "_keys": None} if self._path is not None and not self.by_key else state

    def __setstate__(self, state):
        self.__dict__.update(state)
        if self._path is not None and not self.by_key:
            self._rows, self._keys, _ = row_file.read_rows(self._path)

    def __repr__(self):
        kept = "" if self.top_k is None else f", top_k={self.top_k}"
        return f"<SoftTargets shape={self.shape}, dtype={self.dtype}{kept}, teacher={self.teacher_name!r}>"

    def to_dense(self):
        """All of them, in memory: `(examples, ..., classes)`, logits or probabilities as the teacher gave."""
        self.check_content()
        return self._dense(self._rows[:])

    def batch(self, rows, view=None):
        """What a training batch brings of those rows: dense soft targets, or with `top_k` a dict of their columns.

        Args:
            rows: a slice or an index array.
            view: which view; `None` where there are none.
        """
        return self.columns(np.asarray(self._rows[rows] if view is None else self._rows[rows, view]))

    def rows_of(self, keys):
        """The rows of keys that data gave, int64 `(batch,)`; `ValueError` names one that there is none of."""
        hashes, texts = key_index.hashed(keys)
        self.check_kind(key_index.kind_of(texts))
        rows, found = self.index_keys().rows_of(hashes)
        if not found.all():
            first = int(np.flatnonzero(~found)[0])
            key = hashes[first] if texts is None else texts[first]
            raise ValueError(
                f"The soft targets hold no row of the key {key_index.spoken(key)}, nor of "
                f"{np.count_nonzero(~found) - 1} others in its batch: they are of other data, or of a part. "
                "Compute them of all the data, `SoftTargets.from_teacher(teacher, dataset)`."
            )
        return rows

    def check_kind(self, kind):
        """Raise `ValueError` where keys are of another kind than those that the rows are kept by."""
        if kind != self._description["keyed"]:
            raise ValueError(
                f"The soft targets are kept by keys that are {self._description['keyed']}, but the data brings {kind}."
            )

    def batch_and_seeds(self, rows, view):
        """`batch` of a view, and the seeds that make it again; the seeds are `None` where there are no views."""
        if self.views is None:
            return self.batch(rows), None
        return self.batch(rows, view), augmented_views.view_seeds(
            self.keys[rows], view, self._description["generators"]
        )

    def columns(self, rows):
        """Rows as a batch brings them; of NumPy, or of another framework as a dict of their fields."""
        return rows if self.top_k is None else top_k_rows.columns(rows)

    def records(self):
        """The rows; or `(path, offset, footer, dtype, row_shape)` of the file that holds them."""
        if self._path is None:
            return np.asarray(self._rows)
        offset = row_file.rows_offset(self._path)
        footer = self._path.stat().st_size - offset - self._rows.nbytes
        return self._path, offset, footer, self._rows.dtype, self._rows.shape[1:]

    def check(self, x, rows=None):
        """Raise `ValueError` unless `x` are the examples that these soft targets are of, in the same order.

        Args:
            x: arrays, nested as those that `from_teacher` was given.
            rows: the rows that `x` should be, a slice or an index array; `None`: all.
        """
        if self.by_key:
            raise ValueError(
                "The soft targets are kept by key, and arrays have none: pass a dataset whose `y` is `{'labels': y, "
                "'key': key}`; or compute them of the arrays, by position."
            )
        wanted = self.keys if rows is None else self.keys[rows]
        form = example_form(x)
        if form != self._description["example_form"]:
            raise ValueError(
                f"The soft targets are of other data: of arrays of [dtype, shape of an example] "
                f"{self._description['example_form']}, but `x` holds {form}. {COMPUTE_AGAIN}"
            )
        keys = example_keys(x)
        if len(keys) != len(wanted):
            raise ValueError(
                f"`soft_targets` holds {len(wanted)} examples but `x` holds {len(keys)}: they must come from the same "
                f"data in the same order. {COMPUTE_AGAIN}"
            )
        different = np.flatnonzero(keys != wanted)
        if len(different):
            same = np.array_equal(np.sort(keys), np.sort(wanted))
            how = "the same examples in another order" if same else "other examples"
            raise ValueError(
                f"The soft targets do not belong to `x`: {len(different)} of {len(keys)} examples differ, the first at "
                f"index {different[0]}. `x` holds {how}. {COMPUTE_AGAIN}"
            )

    def verify(self, teacher, x, sample=256, batch_size=32, augmentation=None):
        """Compute a sample of rows again, and report how far they are off.

        Args:
            teacher: the model that they are said to come from.
            x: the data, as for `from_teacher`.
            sample: how many examples, spread evenly over the data.
            batch_size: examples per batch, for the teacher and of arrays.
            augmentation: the layer that made the views, where there are any.

        Returns:
            The largest absolute difference, a float: between the outputs, or with `top_k` between the probabilities of
            the kept classes. It is of the size of the dtype's rounding where all is well, and large where teacher,
            data or order are not those that the rows come from.

        Raises:
            ValueError: `x` holds another number of examples, or `augmentation` is not the one that made the views.
        """
        teacher_rows.check_teacher(teacher)
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
        stored = self._rows[rows]
        if self.top_k is None:
            with np.errstate(invalid="ignore"):  # -inf on both sides is no difference
                difference = np.where(again == stored, 0.0, np.abs(again - stored.astype("float64")))
            return float(difference.max())
        logits = teacher_rows.log_probabilities(again, self.from_logits)
        recomputed = np.take_along_axis(softmax(logits), stored["indices"].astype("int64"), axis=-1)
        return float(np.abs(recomputed - np.exp(stored[stored.dtype.names[1]].astype("float64"))).max())

    def pair(self, dataset):
        """Put these soft targets beside the labels of a dataset, row by row.

        - `keras.utils.PyDataset`: batch `i` is given the rows from `i * size of batch 0`, whatever order `fit` reads
          the batches in, in workers and other processes too; each batch is checked against the keys.
        - torch `DataLoader`: by the index in its dataset, so that it may shuffle; each batch is checked.
        - `tf.data.Dataset`: in the order in which it comes, without Python in the pipeline, and from a file without
          reading more than is due; the first batch is checked. Shuffle after pairing: `pair(dataset).shuffle(...)`.

        With `by_key`, each row is found by its key, in any order and number of workers, of these and of Grain's
        `MapDataset` and `IterDataset` (of batches). Under `tf.data` Python finds them, once a batch.

        Args:
            dataset: yields batches `(x, y)` or `(x, y, sample_weight)`, in the order that `from_teacher` was given;
                with `by_key` in any order, and `y` is `{"labels": y, "key": key}`, or `{"key": key}` without labels.

        Returns:
            A dataset of the same kind whose `y` is `{"labels": y, "soft_targets": ...}`, for `Distiller.fit`.

        Raises:
            TypeError: `dataset` is none of these.
            ValueError: it is of other data, or of another size. By key: it brings no keys, or, when it is read, one
                that these soft targets do not hold (from a `tf.data.Dataset` an `InvalidArgumentError` with these
                words, which `Distiller.fit` makes a `ValueError` again).
        """
        self.check_content()
        return pairing.pair(dataset, self)

    def check_augmentation(self, augmentation):
        """Raise `ValueError` unless these soft targets are of the views that `augmentation` makes, `None` for none."""
        if self.views is None and augmentation is not None:
            raise ValueError(
                "The soft targets are of the examples as they are, but `augmentation` makes other views of them: the "
                "teacher must have seen what the student sees. Compute them of views, `SoftTargets.from_teacher("
                "teacher, x, augmentation=augmentation, views=...)`, or let the teacher run at each step, without."
            )
        if self.views is not None and augmentation is None:
            raise ValueError(
                f"The soft targets are of {self.views} views: pass the `augmentation` that made them (to the "
                "Distiller, to train on them)."
            )
        made_by = self._description["augmentation_fingerprint"]
        if self.views is not None and layer_fingerprint(augmentation) != made_by:
            raise ValueError(
                f"The soft targets are of views that another `augmentation` made, not {augmentation!r} as it is "
                f"configured. {COMPUTE_AGAIN}"
            )

    def check_for(self, loss):
        """Raise `ValueError` where a distillation loss cannot take them; warn where top-k is a poor stand-in."""
        from_logits = getattr(loss, "from_logits", None)
        if from_logits is not None and from_logits != self.from_logits:
            raise ValueError(
                f"The teacher gave {'logits' if self.from_logits else 'probabilities'}, but the distillation loss has "
                f"from_logits={from_logits}. Use `{type(loss).__name__}(from_logits={self.from_logits})`; or, if its "
                f"outputs were mistaken, `SoftTargets.from_teacher(..., from_logits={from_logits})`."
            )
        if self.top_k is None:
            return
        top_k_rows.check_loss(loss)
        temperature = getattr(loss, "temperature", 1.0)
        if temperature != 1:
            warnings.warn(
                f"The soft targets are top-k, which is for temperature 1, but the distillation loss has "
                f"temperature={temperature}: the classes left out count for more there, and all count alike. "
                f"{self._coverage()} Use temperature=1, or dense soft targets.",
                stacklevel=3,
            )

    def _dense(self, rows):
        if self.top_k is None:
            return np.array(rows)
        return keras.ops.convert_to_numpy(top_k_rows.expand(top_k_rows.columns(rows), self._description["classes"]))

    def _coverage(self):
        covered = self.covered_mass
        return (
            f"The {self.top_k} classes kept of {self._description['classes']} cover {covered['mean']:.2%} of the mass "
            f"at temperature 1 (mean; 1st percentile: {covered['first_percentile']:.2%})."
        )

    def check_content(self):
        """Raise `ValueError` where a file's rows are not what was written; they are read for it once."""
        if self._unchecked:
            if self.by_key:
                self._rows.check_content()
            else:
                row_file.check_content(self._path, self._rows, self.keys, self._description)
            self._unchecked = False
