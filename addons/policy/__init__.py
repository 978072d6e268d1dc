"""Decryption policy: what becomes of a connection, decided once, by one pure function, from facts in one place.

decision    decide(facts, policy), and the same explained rule by rule
rules       the policy, compiled and checked: what `decide` asks
addon       the decision in the data path, asked at each step at which more is known
over_time   another policy takes its place, as a whole
asked       what layers ask of it
demands     what a profile demands of the client's own hello; pure
hits        how often each rule has decided, and which ends soon
exclusions  servers that cannot be inspected, as was seen; no I/O
settings    the policy as an operator writes it: types, defaults and bounds; no I/O
compiling   one rule, from what was written to criteria
criteria    what a rule demands: one class for each field, with why it does not hold
case        a connection as rules look at it: canonical, and which name selects
lookup      rules filed by domain, network and user, so that few are walked
coverage    whether an earlier rule leaves nothing for a later one
domains     domains and names, and look-ups by them
networks    networks and addresses, and look-ups by them
notices     what ends soon, said in the log
profiles    what profiles may say, checked
times       days and hours of the week in a zone
"""
