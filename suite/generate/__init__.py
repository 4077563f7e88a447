"""The search that writes kernels/<family>/generated/. It ranks; whether a kernel is good, the gate says."""
