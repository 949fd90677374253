"""formcoach: turn a folder of exercise clips into a video language model that coaches form."""

__version__ = "0.1.0"
