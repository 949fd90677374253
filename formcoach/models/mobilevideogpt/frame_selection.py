"""Which frames the video encoder gets to see: those that the others attend to most."""

import torch
from torch import Tensor


def select_frames(patches: Tensor, chosen: int) -> Tensor:
    """Return the numbers of the frames of each chunk that are looked at, in the order of time.

    All patches of a chunk attend to each other; a frame's score is the attention that its patches receive. It is
    computed in float32 under autocast too, so that training and inference choose the same frames.

    Args:
        patches: CLIP's, (chunks, frames, patches, channels).
        chosen: how many frames of a chunk.

    Returns:
        (chunks, chosen), from 0 in each chunk.
    """
    _, frames, count, channels = patches.shape
    scores = []
    with torch.autocast(patches.device.type, enabled=False):
        for chunk in patches.float().flatten(1, 2):  # (frames * patches, channels); one chunk's attention is 10 MB
            attention = torch.softmax(chunk @ chunk.mT / channels**0.5, dim=-1)
            scores.append(attention.sum(dim=0).view(frames, count).sum(dim=1))
    return torch.stack(scores).topk(chosen, dim=1).indices.sort(dim=1).values
