"""Folders of Hugging Face transformers: weights, config, tokenizer, model card."""
