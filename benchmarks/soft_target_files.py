"""What files of soft targets cost: writing, opening, checking once, and reading batches in a random order.

    python benchmarks/soft_target_files.py --backend jax

Logits of random numbers stand in for a teacher's, so that nothing but the storage is measured. Sizes are those of
ImageNet (1,000 classes) by default; examples are single numbers. Memory is what the process holds (its resident set).
"""

import argparse
import os
import pathlib
import platform
import tempfile
import time


def main():
    arguments = parse_arguments()
    os.environ["KERAS_BACKEND"] = arguments.backend
    import keras
    import numpy as np

    import keras_ban

    logits = np.random.default_rng(0).standard_normal((4096, arguments.classes)).astype("float32")
    inputs = keras.Input((1,), dtype="int32")
    embedding = keras.layers.Embedding(len(logits), arguments.classes)
    teacher = keras.Model(inputs, embedding(inputs)[:, 0])
    embedding.set_weights([logits])
    x = (np.arange(arguments.examples) % len(logits))[:, None].astype("int32")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for top_k in (None, arguments.top_k):
            measure(keras_ban.SoftTargets, teacher, x, top_k, pathlib.Path(folder, "targets.npy"))
    print(
        f"keras_ban {keras_ban.__version__} | keras {keras.__version__} on {arguments.backend} |",
        f"{platform.platform()} | {os.cpu_count()} CPUs | seed 0 | {arguments.examples} examples",
    )


def measure(soft_targets, teacher, x, top_k, path):
    import numpy as np

    before = resident_megabytes()
    begin = time.perf_counter()
    soft_targets.from_teacher(teacher, x, batch_size=1024, top_k=top_k, path=path, verbose=0)
    written, grown = time.perf_counter() - begin, resident_megabytes() - before
    size = path.stat().st_size
    print(f"top_k={top_k}: {size / 1e6:.0f} MB, {size / len(x):.0f} bytes an example")
    print(f"  written in {written:.1f} s, teacher included; memory {grown:+.0f} MB")

    before, begin = resident_megabytes(), time.perf_counter()
    targets = soft_targets.load(path)
    print(f"  opened in {1000 * (time.perf_counter() - begin):.2f} ms; memory {resident_megabytes() - before:+.1f} MB")
    begin = time.perf_counter()
    targets.check_content()
    print(f"  content checked once, in {time.perf_counter() - begin:.2f} s")
    order = np.random.default_rng(1).permutation(len(x))
    begin = time.perf_counter()
    for start in range(0, len(x), 128):
        targets.batch(order[start : start + 128])
    seconds = time.perf_counter() - begin
    print(f"  read once in a random order, batches of 128: {len(x) / seconds / 1e3:.0f} thousand examples a second")


def resident_megabytes():
    """Of this process, without the pages of files that it maps; on Linux."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1000


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], default="jax")
    parser.add_argument("--examples", type=int, default=260_000, help="default: 260,000, a gigabyte of dense targets")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--folder", help="where the files lie while they are measured (default: as `tempfile` chooses)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
