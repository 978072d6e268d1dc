"""What clients read in HTTP when a connection or a request comes to nothing, in one place.

pages       the page of a connection that is blocked or failed
sentences   the closed set of what is said there
template    the HTML around it, ours or the operator's
"""
