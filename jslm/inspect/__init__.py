"""Looking at prepared data: what is in a folder of token files, and what the loader makes of it.

`facts` counts, `batch` explains a batch, `terminal` and `page` show both. Importing this package imports nothing heavy.
"""
