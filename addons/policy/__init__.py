"""Decryption policy: what becomes of a connection, decided once, by one pure function, from facts in one place.

addon       the decision in the data path, asked at each step at which more is known
asked       what layers ask of it
settings    the policy as an operator writes it: types, defaults and bounds; no I/O
"""
