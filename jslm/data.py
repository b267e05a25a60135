"""The name of before: whoever asks for one of its commands or modules is told where it is now."""

raise ImportError(
    "jslm.data is no more: python -m jslm.corpora.stories, .rewrite or .chat_examples writes a generated corpus, "
    "jslm inspect shows a prepared folder, and modules are in jslm.text, jslm.tokens and jslm.prompts",
    name="jslm.data",
)
