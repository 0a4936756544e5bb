"""Images of any size, type and number of channels, as 8-bit RGB of one size."""

import dataclasses
import pathlib
import threading

import numpy as np

from keras_ban._src.images.sizes import as_text

# The number of EXIF's entry, and its values for a camera that was held upright.
_ORIENTATION, _UPRIGHT = 0x0112, (5, 6, 7, 8)


@dataclasses.dataclass
class Notes:
    """What was done to images, counted. Sizes are pairs of height and width.

    Attributes:
        reason: why images were scaled.
    """

    grey: int = 0
    transparent: int = 0
    resized: int = 0
    sizes: set = dataclasses.field(default_factory=set)
    size: tuple = ()
    reason: str = ""
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def count(self, mode, transparent, own_size, size):
        """Count a picture; several threads read them."""
        with self.lock:
            self.grey += mode in ("1", "L", "LA", "La") or mode.startswith("I")
            self.transparent += transparent
            if own_size != size:
                self.resized += 1
                self.sizes.add(own_size)
                self.size = size

    def lines(self):
        lines = []
        if self.grey:
            lines.append(f"{_images(self.grey, 'grey ')} given three equal channels.")
        if self.transparent:
            lines.append(f"{_images(self.transparent, 'transparent ')} laid on white.")
        if self.resized:
            small, large = min(self.sizes), max(self.sizes)
            widths = as_text(small) + (f" to {as_text(large)}" if small != large else "")
            lines.append(
                f"{_images(self.resized)} scaled from {widths} pixels (height x width) to {as_text(self.size)}, what "
                f"is longer is cut off at both ends: {self.reason}."
            )
        return lines


def _images(count, kind=""):
    return f"{count:,} {kind}image{' was' if count == 1 else 's were'}"


def own_size(picture):
    """Return height and width of a Pillow image, after the rotation that its camera noted."""
    is_upright = picture.getexif().get(_ORIENTATION) in _UPRIGHT
    return picture.size if is_upright else picture.size[::-1]


def from_picture(picture, size, notes):
    """Return a Pillow image as an array `(*size, 3)`: rotated as its camera noted, white where it is transparent."""
    # Optional.
    from PIL import Image, ImageOps

    size_before, mode, (height, width) = own_size(picture), picture.mode, size
    # A JPEG file is read at once at a fraction of its size, if that is enough.
    picture.draft("RGB", (2 * max(size), 2 * max(size)))
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow itself would cut off at 255
        picture = Image.fromarray((np.asarray(picture) // 256).clip(0, 255).astype("uint8"))
    transparent = picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info
    if transparent:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("RGB")
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
    notes.count(mode, transparent, size_before, size)
    return np.asarray(picture)


def from_arrays(images, size, notes, source):
    """Return arrays `(height, width)` or `(height, width, channels)`, in a list or in one array, as uint8.

    Whole numbers are taken as 0 to 255, floats as 0 to 1 if none is larger, else as 0 to 255.
    """
    in_one_array = isinstance(images, np.ndarray)
    if in_one_array:
        images = in_colour(images, notes, source)
        if images.shape[1:3] == size:
            return np.ascontiguousarray(images)
    check_memory(len(images), size, source)
    # Optional.
    from PIL import Image

    result = np.empty((len(images), *size, 3), "uint8")
    for index, image in enumerate(images):
        image = image if in_one_array else in_colour(image[None], notes, source)[0]
        result[index] = from_picture(Image.fromarray(image), size, notes)
    return result


def of_eight_bits(images, source):
    if images.dtype == np.uint8:
        return images
    if np.issubdtype(images.dtype, np.number) and images.size:
        least, most = images.min(), images.max()
        if np.issubdtype(images.dtype, np.floating) and least >= 0 and most <= 1:
            return (images * 255).round().astype("uint8")
        if least >= 0 and most <= 255:
            return images.round().astype("uint8")
        values = f"of {images.dtype} from {least} to {most}"
    else:
        values = f"of {images.dtype}"
    raise ValueError(f"{source} must hold images as numbers from 0 to 255, or from 0 to 1. These are {values}.")


def in_colour(images, notes, source):
    """Return arrays `(n, height, width)`, or with a last axis of channels, as 8-bit RGB.

    1 channel is grey, 2 are grey and alpha, 3 RGB, 4 RGB and alpha.
    """
    images = of_eight_bits(images, source)
    images = images[..., None] if images.ndim == 3 else images
    channels = images.shape[-1]
    if channels not in (1, 2, 3, 4):
        raise ValueError(
            f"{source} must hold images of 1 to 4 channels, the last axis: grey, grey and alpha, RGB, RGB and alpha. "
            f"These are of shape {images.shape[1:]}."
        )
    if channels in (2, 4):
        notes.transparent += len(images)
        alpha = images[..., -1:] / 255
        images = (images[..., :-1] * alpha + 255 * (1 - alpha)).round().astype("uint8")
    if channels in (1, 2):
        notes.grey += len(images)
        images = np.repeat(images, 3, axis=-1)
    return images


def check_memory(count, size, source):
    """Raise `ValueError`, where Linux tells how much memory there is, before it is used up."""
    wanted = count * size[0] * size[1] * 3
    meminfo = pathlib.Path("/proc/meminfo")
    if not meminfo.exists():
        return
    (line,) = [line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable")]
    available = int(line.split()[1]) * 1024
    if wanted > available / 2:
        raise ValueError(
            f"{source}: {count:,} images of {as_text(size)} take {wanted / 2**30:.1f} GiB of memory, of which "
            f"{available / 2**30:.1f} GiB are free, and half may be used for them. Choose a smaller --image-size."
        )
