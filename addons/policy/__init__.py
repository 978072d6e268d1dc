"""Decryption policy: what becomes of a connection, decided once, by one pure function, from facts in one place.

settings    the policy as an operator writes it: types, defaults and bounds; no I/O
pages       what a client sees of a connection that is blocked or failed
sentences   the closed set of what is said there
template    the HTML around it, ours or the operator's
"""
