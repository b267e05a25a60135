"""What a prompt looks like: text as models read it, pairs, conversations, chat templates."""
