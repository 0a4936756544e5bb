"""The height and width at which images are trained on."""

LARGEST_OWN, DEFAULT = 96, 64


def choose(sizes, asked, limits, of_preset=None, asked_by="--image-size says"):
    """Return `((height, width), why the images have not their own size)`.

    Args:
        sizes: pairs of height and width, read no further than to the first that is another.
        asked: the size that the user asked for, or `None`.
        limits: the least height and width that the architecture takes, and what they must be multiples of.
        of_preset: the size that a preset scales images to, or `None`.
        asked_by: who asked for it, in words.
    """
    if asked is not None:
        return asked, f"as {asked_by}"
    if of_preset is not None:
        return of_preset, "as the preset takes them"
    sizes = iter(sizes)
    first = next(sizes, None)
    least, multiple = limits
    default = fitted((DEFAULT, DEFAULT), limits)
    if first is None or any(size != first for size in sizes):
        return default, "they are of several sizes (--image-size chooses another)"
    if max(first) > LARGEST_OWN:
        return default, f"larger ones take long to train (--image-size {as_text(first)} keeps them)"
    if min(first) < least:
        return fitted(first, limits), f"the model takes no images below {least}x{least}"
    return fitted(first, limits), f"the model takes multiples of {multiple}"


def fitted(size, limits):
    """Return the nearest height and width that an architecture takes."""
    least, multiple = limits
    return tuple(max(least, round(length / multiple) * multiple) for length in size)


def as_text(size):
    return "x".join(map(str, size))
