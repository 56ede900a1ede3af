"""What goes wrong, and how all workers of a job end together, with the reason in status.json.

A job ends in one of three ways:

- together: all workers come to the same end at the same point, as when a stop is agreed on. Worker 0 writes status.json
  and says why, all meet once more, and each exits by itself (`Job.__exit__`).
- alone: one worker cannot go on, as when it cannot read an image. It tells worker 0 over its link; worker 0 writes
  status.json, passes the ending on, and the watchdog of every worker ends its process, once nothing is being written,
  or after a minute.
- without a word: a worker is killed, and its witness writes status.json; or it is stopped or cut off, and the watchdogs
  that miss it do. Then as before.

Whoever is the first to write status.json also prints the reason; all exit with its status.
"""
