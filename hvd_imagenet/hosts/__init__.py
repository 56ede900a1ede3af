"""The hosts that a job is to run on: who they are, and what would keep it from beginning; for the scripts in launch/.

Nothing outside of the standard library: a host where that is not enough is one without the package.
"""
