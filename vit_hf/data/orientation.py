# SPDX-License-Identifier: Apache-2.0
"""The EXIF orientation: how a stored picture is turned upright, and where a box lies in it.

Shapes: boxes are (left, top, right, bottom), sizes (width, height), in pixels, as Pillow has them.
"""

from typing import NamedTuple

from PIL import ExifTags, Image
from PIL.Image import Transpose

Box = tuple[float, float, float, float]


class Orientation(NamedTuple):
    """One of the eight orientations.

    An upright coordinate is found in the stored picture by swapping x and y where `swaps`, and then
    counting from the right where `mirrors_x`, from the bottom where `mirrors_y`.
    """

    method: Transpose | None
    swaps: bool = False
    mirrors_x: bool = False
    mirrors_y: bool = False

    def turn(self, image: Image.Image) -> Image.Image:
        """Returns the stored picture upright."""
        return image if self.method is None else image.transpose(self.method)

    def swap(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the upright size of a stored one, and the stored size of an upright one."""
        return (size[1], size[0]) if self.swaps else size

    def stored_box(self, box: Box, stored_size: tuple[int, int]) -> Box:
        """Returns where a box of the upright picture lies in the stored one."""
        width, height = stored_size
        left, top, right, bottom = box
        if self.swaps:
            left, top, right, bottom = top, left, bottom, right
        if self.mirrors_x:
            left, right = width - right, width - left
        if self.mirrors_y:
            top, bottom = height - bottom, height - top
        return left, top, right, bottom


UPRIGHT = Orientation(None)
ORIENTATIONS = {  # EXIF 2.3, tag 0x0112
    2: Orientation(Transpose.FLIP_LEFT_RIGHT, mirrors_x=True),
    3: Orientation(Transpose.ROTATE_180, mirrors_x=True, mirrors_y=True),
    4: Orientation(Transpose.FLIP_TOP_BOTTOM, mirrors_y=True),
    5: Orientation(Transpose.TRANSPOSE, swaps=True),
    6: Orientation(Transpose.ROTATE_270, swaps=True, mirrors_y=True),
    7: Orientation(Transpose.TRANSVERSE, swaps=True, mirrors_x=True, mirrors_y=True),
    8: Orientation(Transpose.ROTATE_90, swaps=True, mirrors_x=True),
}


def read_orientation(image: Image.Image) -> Orientation:
    """Reads the orientation; an EXIF block that cannot be read leaves the picture as it is stored.

    Other formats than JPEG must be loaded first, see `decode_region`.
    """
    try:
        return ORIENTATIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1), UPRIGHT)
    except Exception:  # a broken block makes Pillow raise nearly anything, from deep within
        return UPRIGHT
