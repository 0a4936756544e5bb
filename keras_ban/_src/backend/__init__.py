"""The functions that differ between TensorFlow, JAX and torch.

`common.py` has what most backends do. The file of Keras's backend defines again what differs. It is chosen once, here.
"""

import keras

from keras_ban._src.backend.common import *  # noqa: F403

BACKEND = keras.config.backend()

# The frameworks are optional: the files of the other backends could not be imported.
if BACKEND == "tensorflow":
    from keras_ban._src.backend.tensorflow import *  # noqa: F403
elif BACKEND == "jax":
    from keras_ban._src.backend.jax import *  # noqa: F403
elif BACKEND == "torch":
    from keras_ban._src.backend.torch import *  # noqa: F403
else:
    raise ImportError(f"keras_ban needs Keras on TensorFlow, JAX or torch, but Keras's backend is {BACKEND!r}.")
