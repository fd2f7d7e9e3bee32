"""The machine: devices, processes, signals, and the progress that shows how far they are.

Rooms: `devices` (which one computes, and its cache of programs), `distributed` (several processes as one run),
`data_parallel` (one batch on several devices), `stopping` (SIGTERM and Ctrl-C), `parallel` (many cases in threads),
`progress_bar`, `compiling` (what is shown while a program is compiled), `memory` (what is too large for it),
`lack_of_memory` (errors that say so), `standard_streams` (stdout and stderr), `ending` (of a process whose threads
wait), `program` (the name that the commands are called by).
"""

from nas3d_jax.lazy import modules_of

__getattr__ = modules_of(__name__)
