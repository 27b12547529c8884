"""Image files, opened by Pillow in the formats that are meant and no other.

Pillow chooses a format by a file's content, whatever its name says, and knows some that start another program: of a
PostScript file it lets Ghostscript make pixels.
"""

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hypersign._checks import HypersignError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FORMATS", "SUFFIXES", "opened"]

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"))
"""Endings of the files that are read as images."""

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What their content may be, in Pillow's words; PPM is PGM too."""

_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    ArithmeticError,
    LookupError,
    TypeError,
    struct.error,
    zlib.error,
)
"""Errors that Pillow raises for damaged files."""


@contextlib.contextmanager
def opened(path: Path) -> "Iterator[Image.Image]":
    """An open image, whose mode and size are known and whose pixels are decoded when they are asked for.

    Raises:
        HypersignError: the file is no image of `FORMATS`, is damaged, or has more pixels than Pillow's limit
            (89 million).

    >>> from PIL import Image
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("L", (5, 4)).save(file := Path(folder) / "x.png")
    ...     with opened(file) as image:
    ...         image.mode, image.size
    ('L', (5, 4))
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
        with image:
            yield image
    except HypersignError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise HypersignError(
            f"{path}: must have at most {Image.MAX_IMAGE_PIXELS:,} pixels; it has more: make it smaller or remove it"
        ) from error
    except UnidentifiedImageError as error:
        raise HypersignError(
            f"{path}: cannot be read as an image (it must be one of {', '.join(FORMATS)}, whatever its name is); "
            "convert or remove it"
        ) from error
    except _DAMAGE as error:
        raise HypersignError(f"{path}: cannot be read as an image ({error}); replace or remove it") from error
