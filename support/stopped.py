"""How a command says that Ctrl-C has ended it: the line, and the exit code.

A file of its own, since support/interrupt.py changes what Python does when it is imported.
"""
STOPPED = "stopped by Ctrl-C"
CODE = 130                                        # what shells give for it: 128 + SIGINT
