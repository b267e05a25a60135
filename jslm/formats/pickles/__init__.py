"""PyTorch files read without executing them."""
