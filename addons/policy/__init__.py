"""Decryption policy: what becomes of a connection, decided once, by one pure function, from facts in one place.

settings    the policy as an operator writes it: types, defaults and bounds; no I/O
"""
