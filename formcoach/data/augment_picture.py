"""What a record of augmentations does to pixels: one warp, one colour map, then blur, noise and compression."""

import math
from types import ModuleType

import numpy as np

from formcoach.data.augment import Changes

WARPING = ("horizontal_flip", "vertical_flip", "rotation", "scale", "translation_x", "translation_y", "shear")
COLOURING = ("brightness", "contrast", "hue", "saturation", "colour_inversion")
# Luma and two colour differences, ITU-R BT.601, and back: hue turns the latter two, saturation stretches them.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
_MID_GREY = 127.5


class PictureChange:
    """Changes the frames of one clip, all alike but for noise.

    Args:
        changes: the record.
        width: of the frames, in pixels.
        height: of the frames, in pixels.
        aspect: width by height of what the frames show, where that differs from their own because they were resized;
            a rotation is one all the same.
    """

    def __init__(self, changes: Changes, width: int, height: int, aspect: float | None = None) -> None:
        self._cv2 = _single_threaded_opencv()
        self._changes = changes
        self._height = height
        self._origins = None
        if any(name in changes for name in WARPING):
            self._origins = _origins(self._cv2, _warp(changes, width, height, aspect or width / height), width, height)
        self._colours = _colours(changes) if any(name in changes for name in COLOURING) else None

    def __call__(self, frame: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return a changed frame; the given one stays as it is.

        Args:
            frame: (height, width, 3) uint8 RGB.
            generator: decides which pixels get noise.
        """
        cv2, changes = self._cv2, self._changes
        if self._origins is not None:  # beyond the border, the reflection: no black wedges
            frame = cv2.remap(frame, *self._origins, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        if self._colours is not None:
            frame = cv2.transform(frame, self._colours)
        if "blur" in changes:
            frame = cv2.GaussianBlur(frame, (0, 0), changes["blur"] / 1000 * self._height)
        if "salt_and_pepper" in changes:
            frame = _sprinkle(frame, changes["salt_and_pepper"], generator)
        if "jpeg_quality" in changes:
            quality = [cv2.IMWRITE_JPEG_QUALITY, round(changes["jpeg_quality"])]
            frame = cv2.imdecode(cv2.imencode(".jpg", frame, quality)[1], cv2.IMREAD_COLOR)
        return frame

    def all(self, frames: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return changed frames: (T, height, width, 3) uint8 RGB."""
        return np.stack([self(frame, generator) for frame in frames])


def in_sight(changes: Changes, across: float, down: float) -> Changes:
    """Return a record of what happens to the middle of a picture when the whole picture is changed.

    Args:
        changes: of the whole picture; shifts and blur are told in shares of its size.
        across: share of its width that is in the middle.
        down: share of its height.
    """
    shares = {"translation_x": across, "translation_y": down, "blur": down}
    return {name: value / shares.get(name, 1.0) for name, value in changes.items()}


def _single_threaded_opencv() -> ModuleType:
    """Return OpenCV, told to start no threads: several clips are worked on side by side, and forks would hang."""
    import cv2

    cv2.setNumThreads(0)
    return cv2


def _warp(changes: Changes, width: int, height: int, aspect: float) -> np.ndarray:
    """Return the (2, 3) matrix from pixels of the original to pixels of the result.

    The changes are composed around the centre, in units of the height, in which x and y measure alike.
    """
    turn = math.radians(changes.get("rotation", 0.0))
    factor = changes.get("scale", 1.0)
    lean = math.tan(math.radians(changes.get("shear", 0.0)))
    flip = np.diag([-1.0 if "horizontal_flip" in changes else 1.0, -1.0 if "vertical_flip" in changes else 1.0])
    # y points down: counter-clockwise has the sine the other way round
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    shear = np.array([[1.0, -lean], [0.0, 1.0]])
    linear = rotation @ shear @ flip * factor
    shift = np.array([changes.get("translation_x", 0.0) * aspect, changes.get("translation_y", 0.0)])
    units = np.diag([width / aspect, float(height)])  # pixels a unit
    linear = units @ linear @ np.linalg.inv(units)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    return np.column_stack([linear, units @ shift + centre - linear @ centre])


def _origins(cv2: ModuleType, warp: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where each pixel comes from, in the fixed-point form in which OpenCV is fastest."""
    inverse = np.linalg.inv(np.vstack([warp, (0, 0, 1)]))[:2].astype(np.float32)  # (2, 3)
    across, down = np.arange(width, dtype=np.float32)[None, :], np.arange(height, dtype=np.float32)[:, None]
    x, y = (row[0] * across + row[1] * down + row[2] for row in inverse)  # (height, width) each
    return cv2.convertMaps(x, y, cv2.CV_16SC2)


def _colours(changes: Changes) -> np.ndarray:
    """Return the (3, 4) matrix from RGB and 1 to RGB."""
    turn, saturation = math.radians(changes.get("hue", 0.0)), changes.get("saturation", 1.0)
    difference = saturation * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    inside = np.eye(3)
    inside[1:, 1:] = difference
    contrast = changes.get("contrast", 1.0)
    linear = changes.get("brightness", 1.0) * contrast * (_FROM_YIQ @ inside @ _TO_YIQ)
    offset = np.full((3, 1), changes.get("brightness", 1.0) * _MID_GREY * (1 - contrast))
    if "colour_inversion" in changes:
        linear, offset = -linear, 255 - offset
    return np.hstack([linear, offset])


def _sprinkle(frame: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Turn a share of the pixels black or white, as many of each."""
    height, width = frame.shape[:2]
    count = round(share * height * width)
    rows, columns = generator.integers(0, height, count), generator.integers(0, width, count)
    frame = frame.copy()
    frame[rows, columns] = (255 * (np.arange(count) % 2)).astype(np.uint8)[:, None]
    return frame
