"""Runs PTX text on a CPU: all threads of a batch of blocks step together, in numpy, and every access is checked.

What it shows: results, bounds, alignment, barriers, races through shared memory. What it cannot show: speed, registers,
what ptxas makes of the text, and races through global memory other than two threads that write different values.
"""
