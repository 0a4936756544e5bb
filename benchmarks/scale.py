"""What born-again training takes where data are large: bytes, reading, teacher passes, hours and dollars, by formulas.

    python benchmarks/scale.py                            # the tables of docs/scale.md
    python benchmarks/scale.py --scenario tokens          # one of its columns
    python benchmarks/scale.py --calibrate --backend jax  # predicts runs on this machine, and holds them against it

The formulas are the functions below; what goes into them is in `SCENARIOS` and `MACHINE`, each number with its source
or marked as assumed: put in your own. Nothing here needs a GPU. Units: bytes, seconds, examples a second, dollars.
"""

import argparse
import dataclasses
import sys

GENERATIONS = 3  # students after the first teacher
TOP_K = 20
VIEWS = 10


@dataclasses.dataclass(frozen=True)
class Machine:
    """One machine of eight GPUs, as they are rented; by default AWS's p4d.24xlarge."""

    gpus: int = 8
    price: float = 21.957642  # dollars an hour
    disk_bytes: float = 8e12
    disk_rate: float = 16e9  # bytes a second, read from all local disks
    volume_rate: float = 1000 * 2**20  # the same, from one network volume (EBS gp3)
    network_rate: float = 400e9 / 8
    gpu_memory_rate: float = 1.555e12  # of one GPU
    link_rate: float = 15.75e9  # bytes a second from one GPU to its process: PCIe 3.0, 16 lanes
    dense_rate: float = 7e7  # outputs of a teacher that one process makes rows of in a second
    top_k_rate: float = 5e7


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What is trained. An example is what a row of soft targets is of: an image, or a sequence of tokens."""

    examples: int
    validation: int  # examples
    outputs: int  # distributions that the model gives for one example
    classes: int
    bytes_of_example: float  # as it is read from disk
    weights: int
    epochs: int
    batch: int  # examples a step and GPU
    step_rate: float  # examples a second that one machine trains on, without a teacher
    forward_rate: float  # the same, of forward passes
    machines: int = 1
    efficiency: float = 1.0  # of several machines, against as many times the rate of one
    views: int | None = VIEWS  # None: nothing is augmented


MACHINE = Machine()
# Passes over an array (batch, classes) of float32 that the distillation loss adds to a step, there and back.
LOSS_PASSES = 6
IMAGENET = Scenario(
    examples=1_281_167,
    validation=50_000,
    outputs=1,
    classes=1000,
    bytes_of_example=147_897_477_120 / 1_281_167,
    weights=25_557_032,
    epochs=90,
    batch=256,
    step_rate=16_621,
    forward_rate=8 * 3676.14,
)
# 600,000 steps of 491,520 tokens in four days, in sequences of 1,024. A forward pass is a third of a training step.
TOKENS_RATE = 600_000 * 491_520 / (4 * 86_400) / 1024
SCENARIOS = {
    "imagenet-8": IMAGENET,
    "imagenet-64": dataclasses.replace(IMAGENET, machines=8, efficiency=0.9),
    "tokens": Scenario(
        examples=10**9 // 1024,
        validation=10**6 // 1024,
        outputs=1024,
        classes=50_000,
        bytes_of_example=2 * 1024,
        weights=124_000_000,
        epochs=10,
        batch=12,
        step_rate=TOKENS_RATE,
        forward_rate=3 * TOKENS_RATE,
        views=None,
    ),
}
SOURCES = [
    "https://github.com/CompVis/taming-transformers/blob/master/taming/data/imagenet.py (images, bytes of the archive)",
    "https://pytorch.org/vision/stable/models/generated/torchvision.models.resnet50.html",
    "https://github.com/NVIDIA/DeepLearningExamples/blob/master/PyTorch/Classification/ConvNets/resnet50v1.5/README.md "
    "(8 A100, mixed precision: 16,621 images a second; 90 epochs, batches of 256)",
    "https://github.com/NVIDIA/DeepLearningExamples/blob/master/TensorFlow/Classification/ConvNets/resnet50v1.5/README.md"
    " (one A100, mixed precision and XLA, batches of 256: 3,676.14 images a second; eight: eight times, "
    "assumed)",
    "https://github.com/karpathy/nanoGPT (GPT-2 of 124 million weights on 8 A100: 600,000 steps of 12 * 1,024 * 5 * 8 "
    "tokens in about four days; tokens of two bytes)",
    "https://arxiv.org/abs/2001.08361 (2 operations a weight and token forward, 4 backward)",
    "https://aws.amazon.com/blogs/compute/amazon-ec2-p4d-instances-deep-dive/ (8 A100 of 40 GB, 8 TB of local disks "
    "read at 16 GB/s, 400 Gbit/s)",
    "https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws/AmazonEC2/current/us-east-1/index.csv (p4d.24xlarge, "
    "Linux, on demand, list of July 2026)",
    "https://docs.aws.amazon.com/sdk-for-kotlin/api/latest/ec2/aws.sdk.kotlin.services.ec2.model/-create-volume-request/"
    "throughput.html (gp3: 1,000 MiB/s)",
    "https://github.com/horovod/horovod/blob/master/docs/benchmarks.rst (90% on 512 GPUs, ResNet-101)",
    "https://developer.nvidia.com/blog/nvidia-ampere-architecture-in-depth/ (A100: 1,555 GB/s; passes over an array "
    "(batch, classes) that the loss adds to a step: 6, assumed)",
    "https://en.wikipedia.org/wiki/PCI_Express (PCIe 3.0, 16 lanes: 15.75 GB/s; each GPU its own: assumed)",
    "measured by --calibrate on machines of two cores: 68 to 100 million outputs a second and core dense, 50 to 66 "
    "million with top_k; taken: 70 and 50",
]


# The formulas.


def row_bytes(classes, outputs=1, top_k=None, dtype=None, views=1):
    """Bytes that `SoftTargets` keeps of one example, without its key of 8; of one view, `views=1`, it reads as much.

    Dense, each of `outputs` distributions takes a value for each class. With `top_k` it takes as many values and class
    numbers, and one value for the mass of all others.
    """
    value = {"float16": 2, "float32": 4, "float64": 8}[dtype or ("float32" if top_k is None else "float16")]
    number = next(size for size in (1, 2, 4, 8) if classes <= 256**size)
    return views * outputs * (classes * value if top_k is None else top_k * (number + value) + value)


def file_bytes(examples, bytes_of_row):
    """Of a file of soft targets: rows and keys. (What it says of itself takes less than 2 kB.)"""
    return examples * (bytes_of_row + 8)


def teacher_passes(generations, passes, members=1):
    """Passes of teachers over the data in all: so many for each student.

    Args:
        generations: the students.
        passes: online one an epoch; cached one, or one for each view.
        members: 1; or `"ensemble"`, all generations so far, each of which makes its passes (`teach_from="ensemble"`).
    """
    return passes * (generations * (generations + 1) // 2 if members == "ensemble" else generations * members)


def step_rate(scenario, machine, distilled=False):
    """Examples a second that all machines train on, where data come in time.

    Distilled, each example's distributions pass through the memory of its GPU some more times.
    """
    rate = scenario.step_rate * scenario.machines * scenario.efficiency
    return 1 / (1 / rate + loss_seconds(scenario, machine)) if distilled else rate


def loss_seconds(scenario, machine):
    """That the distillation loss adds to a step, per example, all GPUs together."""
    memory_rate = machine.gpu_memory_rate * machine.gpus * scenario.machines
    return LOSS_PASSES * 4 * scenario.outputs * scenario.classes / memory_rate


def forward_rate(scenario):
    """Examples a second that all machines pass forward, each its own part."""
    return scenario.forward_rate * scenario.machines


def pass_seconds(scenario, machine, kept=None):
    """One pass of a teacher over the data, by all machines, each GPU with a process and a part of its own.

    Args:
        kept: `None`: what it says stays where it is, in the step (online). `"dense"`, `"top_k"`: it leaves the GPU, and
            then its process makes rows of it, on one core. To write them takes little beside that.
    """
    values, processes = scenario.examples * scenario.outputs * scenario.classes, machine.gpus * scenario.machines
    seconds = scenario.examples / forward_rate(scenario)
    if kept is None:
        return seconds
    rows_rate = {"dense": machine.dense_rate, "top_k": machine.top_k_rate}[kept]
    return seconds + 4 * values / (machine.link_rate * processes) + values / (rows_rate * processes)


def epoch_seconds(examples, rate, bytes_a_second, bytes_of_example):
    """An epoch's steps, where a loader works beside them: the slower of the two counts."""
    return max(examples / rate, examples * bytes_of_example / bytes_a_second)


def model_seconds(scenario, machine, teacher_seconds=None, bytes_of_row=0):
    """One model, trained and validated in each epoch, and twice at its end: its metrics, and its scores.

    Args:
        teacher_seconds: what its teacher takes in all; `None`: it has none.
        bytes_of_row: of soft targets that are read beside the data.
    """
    rate = step_rate(scenario, machine, distilled=teacher_seconds is not None)
    disk_rate, read = machine.disk_rate * scenario.machines, scenario.bytes_of_example + bytes_of_row
    epoch = epoch_seconds(scenario.examples, rate, disk_rate, read)
    validations = (scenario.epochs + 2) * scenario.validation / forward_rate(scenario)
    return scenario.epochs * epoch + validations + (teacher_seconds or 0)


def sequence_seconds(scenario, machine, generations, teacher_seconds, bytes_of_row=0):
    """A `BornAgainSequence`: generation 0, and students whose teachers take so long each."""
    student = model_seconds(scenario, machine, teacher_seconds, bytes_of_row)
    return model_seconds(scenario, machine) + generations * student


def cost(seconds, scenario, machine):
    """Dollars for all machines."""
    return seconds / 3600 * scenario.machines * machine.price


def all_reduce_seconds(weights, machines, network_rate, bytes_of_weight=2):
    """To add up gradients between machines, in a ring, at the full rate of the network and beside nothing else."""
    return 2 * (machines - 1) / machines * weights * bytes_of_weight / network_rate


# The tables.


def ways(scenario):
    """How soft targets may be kept: `{name: (bytes of a row, of the view that is read)}`."""
    one = {"classes": scenario.classes, "outputs": scenario.outputs}
    rows = {
        "dense, float32": (row_bytes(**one), row_bytes(**one)),
        "dense, float16": (row_bytes(**one, dtype="float16"), row_bytes(**one, dtype="float16")),
        f"top_k={TOP_K}": (row_bytes(**one, top_k=TOP_K), row_bytes(**one, top_k=TOP_K)),
    }
    if scenario.views:
        of_views = row_bytes(**one, top_k=TOP_K, views=scenario.views)
        rows[f"top_k={TOP_K}, views={scenario.views}"] = (of_views, of_views // scenario.views)
    return rows


def inputs_table(scenarios):
    rows = {
        "training examples [1]": lambda s: f"{s.examples:,}",
        "distributions an example, classes": lambda s: f"{s.outputs:,} x {s.classes:,}",
        "bytes an example, on disk [1, 5]": lambda s: f"{s.bytes_of_example:,.0f}",
        "weights [2, 5]": lambda s: f"{s.weights:,}",
        "epochs of each generation [3; tokens: assumed]": lambda s: str(s.epochs),
        "batch of a GPU [3, 5]": lambda s: f"{s.batch:,}",
        "examples/s trained, 8 GPUs [3, 5]": lambda s: f"{s.step_rate:,.0f}",
        "examples/s forward, 8 GPUs [4; tokens: 6]": lambda s: f"{s.forward_rate:,.0f}",
        "validation examples [1; tokens: assumed]": lambda s: f"{s.validation:,}",
        "machines, efficiency [10]": lambda s: f"{s.machines}, {s.efficiency:.2f}",
    }
    return table("What goes in", scenarios, rows)


def bytes_table(scenarios):
    rows = {}
    for name in ways(IMAGENET):
        rows[f"an example, {name}"] = lambda s, name=name: f"{ways(s)[name][0] + 8:,} B" if name in ways(s) else "-"
    for name in ways(IMAGENET):
        rows[f"all, {name}"] = lambda s, name=name: (
            size(file_bytes(s.examples, ways(s)[name][0])) if name in ways(s) else "-"
        )
    rows["a batch as float32, on each GPU"] = lambda s: size(4 * s.batch * s.outputs * s.classes)
    return table("Bytes of one generation's soft targets, keys included", scenarios, rows)


def reading_table(scenarios):
    rows = {
        "examples": lambda s: f"{s.bytes_of_example * step_rate(s, MACHINE) / 1e9:.3f}",
    }
    for name in list(ways(IMAGENET))[:3]:
        rows[f"soft targets, {name}"] = lambda s, name=name: (
            f"{ways(s)[name][1] * step_rate(s, MACHINE, distilled=True) / 1e9:.3f}"
        )
    rows["local disks of all machines [7]"] = lambda s: f"{MACHINE.disk_rate * s.machines / 1e9:.3f}"
    rows["one network volume [9]"] = lambda s: f"{MACHINE.volume_rate / 1e9:.3f}"
    return table("Reading in GB/s: what the steps ask for, and what disks give", scenarios, rows)


def teacher_table(scenarios):
    def cell(scenario, passes, members=1):
        if passes is None:
            return "-"
        passes = teacher_passes(GENERATIONS, passes, members)
        hours = passes * scenario.examples / forward_rate(scenario) / 3600 * MACHINE.gpus * scenario.machines
        return f"{passes}: {hours:.1f}"

    rows = {
        "online": lambda s: cell(s, s.epochs),
        "cached": lambda s: cell(s, 1),
        f"cached, views={VIEWS}": lambda s: cell(s, s.views),
        "saved: online less cached, or less views": lambda s: cell(s, s.epochs - (s.views or 1)),
        'online, teach_from="ensemble"': lambda s: cell(s, s.epochs, "ensemble"),
        'cached, teach_from="ensemble"': lambda s: cell(s, 1, "ensemble"),
    }
    return table(
        f"Teacher passes of 1 + {GENERATIONS} generations: how many, and the GPU hours of all", scenarios, rows
    )


def time_table(scenarios):
    models = GENERATIONS + 1

    def cell(scenario, seconds):
        ratio = seconds / (models * model_seconds(scenario, MACHINE))
        return f"{seconds / 3600:.2f} h, ${cost(seconds, scenario, MACHINE):,.0f}, {ratio:.3f}"

    def cached(scenario, name, kept, passes=1):
        if name not in ways(scenario):
            return "-"
        stored, read = ways(scenario)[name]
        if file_bytes(scenario.examples, stored) > MACHINE.disk_bytes * scenario.machines:
            return "no room on the disks"
        seconds = passes * pass_seconds(scenario, MACHINE, kept)
        return cell(scenario, sequence_seconds(scenario, MACHINE, GENERATIONS, seconds, read))

    def online(scenario):
        seconds = scenario.epochs * pass_seconds(scenario, MACHINE)
        return cell(scenario, sequence_seconds(scenario, MACHINE, GENERATIONS, seconds))

    sparse, dense, run = f"top_k={TOP_K}", "dense, float32", f"1 + {GENERATIONS}"
    rows = {
        "one plain model": lambda s: cell(s, model_seconds(s, MACHINE)),
        f"{models} plain models": lambda s: cell(s, models * model_seconds(s, MACHINE)),
        f"{run}, cached, {sparse}": lambda s: cached(s, sparse, "top_k"),
        f"{run}, cached, {dense}": lambda s: cached(s, dense, "dense"),
        f"{run}, cached, {sparse}, views={VIEWS}": lambda s: cached(s, f"{sparse}, views={VIEWS}", "top_k", s.views),
        f"{run}, online": online,
        f"{run}, cached, {sparse} picked on the GPU (not built)": lambda s: cached(s, sparse, None),
    }
    return table(f"Hours, dollars [8], and the ratio to {models} plain models", scenarios, rows)


def bottlenecks(scenario):
    """Seconds that an epoch of a cached student would take if nothing but that held it up, and its teacher's pass."""
    examples, disks = scenario.examples, MACHINE.disk_rate * scenario.machines
    steps = examples / (scenario.batch * MACHINE.gpus * scenario.machines)
    gradients = all_reduce_seconds(scenario.weights, scenario.machines, MACHINE.network_rate)
    found = {
        "epoch: steps": examples / step_rate(scenario, MACHINE, distilled=True),
        "of them the distillation loss [11]": examples * loss_seconds(scenario, MACHINE),
        "epoch: gradients between machines, 2 B each [7]": steps * gradients,
        "epoch: examples from local disks": examples * scenario.bytes_of_example / disks,
        "epoch: examples from one network volume": examples * scenario.bytes_of_example / MACHINE.volume_rate,
    }
    for name in ("dense, float32", f"top_k={TOP_K}"):
        read = examples * ways(scenario)[name][1]
        found[f"epoch: {name}, from local disks"] = read / disks
        found[f"epoch: {name}, from one network volume"] = read / MACHINE.volume_rate
    outputs = examples * scenario.outputs * scenario.classes
    processes = MACHINE.gpus * scenario.machines
    found["pass: forward"] = pass_seconds(scenario, MACHINE)
    found["pass: outputs from GPU to process [12]"] = 4 * outputs / (MACHINE.link_rate * processes)
    found["pass: rows made of them, dense [13]"] = outputs / (MACHINE.dense_rate * processes)
    found[f"pass: rows made of them, top_k={TOP_K} [13]"] = outputs / (MACHINE.top_k_rate * processes)
    return found


def bottleneck_table(scenarios):
    rows = {name: lambda s, name=name: f"{bottlenecks(s)[name]:,.1f}" for name in bottlenecks(IMAGENET)}
    return table("Seconds of a student's epoch and of a teacher's pass, part by part", scenarios, rows)


def table(title, scenarios, rows):
    """`(title, table)`: a column for each scenario, a row for each function of a scenario."""
    import rich.box
    import rich.table

    made = rich.table.Table(box=rich.box.MARKDOWN)
    made.add_column("")
    for name in scenarios:
        made.add_column(name, justify="right")
    for name, of in rows.items():
        made.add_row(name, *(of(SCENARIOS[scenario]) for scenario in scenarios))
    return title, made


def size(count):
    power = next(power for power in (4, 3, 2, 1) if count >= 1000**power or power == 1)
    return f"{count / 1000**power:,.{0 if count / 1000**power >= 100 else 2}f} {' kMGT'[power]}B"


def tables(scenarios):
    made = (inputs_table, bytes_table, reading_table, teacher_table, time_table, bottleneck_table)
    return [each(scenarios) for each in made]


def as_text(made):
    """A table of `rich` as Markdown."""
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), width=160, markup=False, highlight=False)
    console.print(made)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines() if line.strip())


def main():
    arguments = parse_arguments()
    if arguments.calibrate or arguments.one:
        import _calibrating

        return _calibrating.run(arguments)
    for title, made in tables(arguments.scenario):
        print(f"{title}\n\n{as_text(made)}\n")
    for number, source in enumerate(SOURCES, start=1):
        print(f"[{number}] {source}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help="default: all")
    calibrate = parser.add_argument_group("calibration")
    calibrate.add_argument("--calibrate", action="store_true", help="measure this machine, predict, and measure again")
    calibrate.add_argument("--backend", choices=["tensorflow", "jax", "torch"], default="jax")
    calibrate.add_argument("--model", choices=["MLP", "ResNet", "LSTM"], default="ResNet", help="as in step_cost.py")
    calibrate.add_argument("--small", type=int, nargs=2, default=[512, 1024], help="examples measured in calibration")
    calibrate.add_argument(
        "--sizes", nargs="+", default=["768x2", "1536x3", "2048x3"], help="examples x epochs predicted"
    )
    calibrate.add_argument("--rounds", type=int, default=5, help="of each part, in calibration")
    calibrate.add_argument("--repeats", type=int, default=3, help="of whole sequences")
    calibrate.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
