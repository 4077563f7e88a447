"""What is here and what it can do.

specs     the data sheet: peaks, with a source for each figure (specs.json)
detect    which devices this machine has, found by a child process, and which of them `--gpu` chooses
probe     the part of `detect` that imports torch: runs in the child
cpu       the CPU as a device: model, instruction set, cores, caches
timer     how long a call keeps the device busy; runs in workers
clocks    clocks, power, temperature, throttling and other processes, before and after a launch
ceilings  what this very device reaches: a copy, a read, a matrix product
doctor    all of that as text, for `kernelgate doctor`
"""
