"""Generated text: stories, pairs for rewriting, chat examples. Knows nothing of the rest of jslm but its errors."""
