"""What a run will take, before it begins: steps, all-reduce, time, data rate and memory, for any number of workers."""
