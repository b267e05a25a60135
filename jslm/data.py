"""The name of before: whoever asks for one of its commands or modules is told where it is now."""

raise ImportError(
    "jslm.data is no more: jslm corpora writes stories, pairs for rewriting and chat examples, jslm inspect shows a "
    "prepared folder, and the modules are in jslm.text, jslm.tokens, jslm.prompts and jslm.corpora",
    name="jslm.data",
)
