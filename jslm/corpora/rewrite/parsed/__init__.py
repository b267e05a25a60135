"""Pairs of both voices from sentences that people wrote and a parser, or a treebank's authors, took apart.

`trees` has the sentences, `forms` the words, `group` a verb with its auxiliaries, `to_active` and
`to_passive` the rules, `pairs` what a model learns from. Nothing here is imported before it is used: `forms` needs
the extra `rewrite`.
"""
