"""The tasks of `equal_cost.py`, by name."""

from equal_cost_tasks import border, images, series, tables, texts, toy

# Each takes `(seed, data_folder)`. Names that end with "_large" are for a GPU.
TASKS = {
    "bible": texts.bible,
    "letter": tables.letter,
    "japanese_vowels": series.japanese_vowels,
    "osu_leaf": series.osu_leaf,
    "shakespeare": texts.shakespeare,
    "tiny_imagenet": images.tiny_imagenet,
    "cifar10_2500": images.cifar10_2500,
    "cifar10_10k": images.cifar10_10k,
    "cifar10_25k": images.cifar10_25k,
    "tiny_imagenet_large": images.tiny_imagenet_large,
    "cifar10_10k_large": images.cifar10_10k_large,
    "cifar10_25k_large": images.cifar10_25k_large,
    "shakespeare_large": texts.shakespeare_large,
    "toy": toy.toy,
}
SMALL = [name for name in TASKS if not name.endswith("_large") and name != "toy"]
LARGE = [name for name in TASKS if name.endswith("_large")]
# Added last, for they are no default.
TASKS |= border.TASKS
