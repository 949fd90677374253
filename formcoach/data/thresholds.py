"""What a clip must reach to be kept; the defaults are for clips of one person, as QEVD has them."""

from dataclasses import dataclass

from formcoach.errors import UserError


@dataclass(frozen=True)
class Thresholds:
    """What a clip must reach.

    Args:
        min_width: pixels of the longer side.
        min_height: pixels of the shorter side.
        min_duration: seconds.
        max_duration: seconds.
        min_brightness: mean luma, 0..255.
        max_brightness: mean luma, 0..255.
        min_sharpness: variance of the Laplacian.
        min_motion: share of pairs of pictures between which something moves; asked of moving exercises only.
        max_black: seconds of the longest black stretch.
        max_frozen: seconds of the longest frozen stretch.
    """

    min_width: int = 640
    min_height: int = 360
    min_duration: float = 1.0
    max_duration: float = 60.0
    min_brightness: float = 35.0
    max_brightness: float = 190.0
    min_sharpness: float = 50.0
    min_motion: float = 0.15
    max_black: float = 1.0
    max_frozen: float = 2.0

    def __post_init__(self) -> None:
        """Refuse thresholds that no clip can pass."""
        for measure in ("duration", "brightness"):
            low, high = getattr(self, f"min_{measure}"), getattr(self, f"max_{measure}")
            if low > high:
                raise UserError(f"--min-{measure} {low:g} is above --max-{measure} {high:g}; no clip can be both")
        if self.min_motion > 1:
            raise UserError(f"--min-motion {self.min_motion:g}: is a share of the clip and cannot be above 1")
