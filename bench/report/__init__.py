"""What a measurement found, and what every report is made of. It imports nothing of bench.

report       a result with versions, host and configuration, as JSON and as a table
plot         its charts
doubts       when something else may have been measured, and the sentence for it
percentiles  of latencies; no I/O
processes    CPU time and memory by process, and how a process is waited for at its end
versions     the distribution's packages that were measured
"""
