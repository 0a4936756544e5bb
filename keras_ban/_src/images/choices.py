"""The names that options of `keras-ban train` may have. Nothing here imports Keras, so `--help` needs no backend."""

# Losses of `keras_ban.losses`: a short name, and the temperature and the label weight if none is given.
LOSSES = {
    "KnowledgeDistillation": ("kd", 4.0, 0.3),
    "ConfidenceWeighted": ("cwtm", None, 0.0),
    "PermutedDarkKnowledge": ("dkpp", 1.0, 0.3),
    "DecoupledKnowledgeDistillation": ("dkd", 4.0, 0.5),
    "DIST": ("dist", 4.0, 0.5),
}
# Those that need a label of each image.
NEED_LABELS = ("ConfidenceWeighted", "DecoupledKnowledgeDistillation")
# Keras's layers in the training step, and what changes batches before it.
IN_STEP, IN_BATCHES = ("flip", "crop"), ("randaugment", "mixup", "cutmix")
# Optimizers, with the learning rate if none is given.
LEARNING_RATES = {"adam": 3e-3, "adamw": 3e-3, "sgd": 0.1}
# Architectures of each library: the least height and width of images, and what they must be multiples of. The first
# library is the default, and so is the first architecture of each.
BACKBONES = {
    "keras_cv": {"resnet": (4, 1), "densenet": (15, 1), "efficientnetv2": (4, 1), "mobilenetv3": (4, 1)},
    "keras_hub": {"densenet": (15, 1), "vit": (4, 4)},
}
# In front of the name of pretrained weights.
PRESET = "preset:"


class WrongOption(ValueError):
    """An option has a wrong value. Only with Keras imported can it be known."""
