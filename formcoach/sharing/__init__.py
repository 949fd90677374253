"""Sharing: a trained model on the Hugging Face hub, with a model card and nothing private."""
