"""Which frames of a clip the model sees."""

import numpy as np

from formcoach.errors import UserError

GROUP = 4  # frames that the model merges into one group of tokens


def round_limits(min_frames: int, max_frames: int, group: int = GROUP) -> tuple[int, int]:
    """Return the limits as multiples of `group`: the minimum rounded up, the maximum down, both at least `group`.

    Raises:
        UserError: no multiple of `group` lies between the limits.
    """
    low = max(-(-min_frames // group) * group, group)
    high = max(max_frames // group * group, group)
    if low > high:
        raise UserError(
            f"--min_num_frames {min_frames} and --max_num_frames {max_frames}: no multiple of {group} lies between "
            "them; lower the first or raise the second"
        )
    return low, high


def frame_count(duration: float, min_frames: int, max_frames: int, group: int = GROUP) -> int:
    """Return how many frames to take from a clip: as many groups as `duration // group`, within the limits.

    Source: `get_num_frames_by_duration` of InternVideo2.5's model card.

    Args:
        duration: length of the clip in seconds.
        min_frames: fewest frames, rounded up to a multiple of `group`.
        max_frames: most frames, rounded down to a multiple of `group`.
        group: frames a group.
    """
    low, high = round_limits(min_frames, max_frames, group)
    wanted = max(int(duration // group), 1) * group
    return min(max(wanted, low), high)


def frame_indices(total_frames: int, count: int) -> list[int]:
    """Return `count` frame numbers, each the middle of one of `count` equal parts of `[0, total_frames)`.

    A clip with fewer frames than `count` gives each of its frames once and then its last one again and again.
    Source: the "middle" sampling of InternVideo2.5's training code.
    """
    if total_frames < 1 or count < 1:
        raise ValueError(f"cannot take {count} frames out of {total_frames}")
    parts = min(count, total_frames)
    edges = np.linspace(0, total_frames, parts + 1).astype(int)
    middles = (edges[:-1] + edges[1:] - 1) // 2
    return middles.tolist() + [int(middles[-1])] * (count - parts)
