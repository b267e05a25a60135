"""llama2.c's model files, checkpoints and tokenizer.bin."""
