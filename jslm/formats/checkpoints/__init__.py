"""PyTorch checkpoints of the seed projects: nanoGPT, lilLM, slms."""
