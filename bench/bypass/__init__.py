"""Connections that are passed by, uninspected: hsmitm beside squid that splices and mitmdump that ignores.

It imports rig and report, and is not installed.

    bypass   the measurement: who runs, the turns and the report
    system   a whole hsmitm whose policy bypasses everything
    peers    squid and mitmdump: how each is set up to pass everything
    figures  what the turns add up to: figures and targets; no I/O
"""
