"""The command line: one file for each group of commands; main.py holds the lazy group and the error handler.

Imports inside this package are relative, because it is called ``cli`` in a checkout and
``ctxembed_cli`` once installed.
"""
