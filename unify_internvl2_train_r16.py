"""Fine-tune a video language model with LoRA on exercise clips (flag names of the InternVideo2.5 recipe)."""

from formcoach.command import run
from formcoach.training.launch import main

if __name__ == "__main__":
    run(main)
