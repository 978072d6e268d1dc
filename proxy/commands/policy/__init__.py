"""`hsmitm policy ...`: what the policy does, did, and would do. Nothing here changes anything.

policy      the commands and their options
question    what an operator asks about, as facts of a connection
answer      `policy test`: what becomes of it, and why not by the other rules
shown       `policy show`: rules as they are understood, profiles with every value
replay      `policy replay`: connections of the past that would now be decided otherwise
hits        `policy hits`: how often each rule decided, and when last
"""
