"""How the packaged tiny base model is made, from random weights to plain descriptions of motion."""
